import os
import os.path as osp
import re
from types import ModuleType
from typing import Callable, Optional

from filelock import FileLock

_CURL_STATUS = {
    3: 'not a legal URL',
    6: 'no such host',
    7: 'the server cannot be reached',
    18: 'the download broke off',
    22: 'the server refuses it: not found, or not allowed?',
    28: 'no answer in time',
    60: 'the certificate of the server is not trusted',
    67: 'login denied',
    78: 'not found',
}


class ShardCache:
    """Brings files from a URL to this machine, once for all its processes.

    URLs are opened and room is made by the package ``webdataset``. A file
    appears under its name when it is complete, so that a process that is
    killed while it fetches leaves nothing that others take for whole, and its
    lock is free again.

    Args:
        url (Callable[[str], str]): Gives the URL of a file.
        folder (str): Where files are kept.
        size (int, optional): Bytes that they may take; the oldest are deleted
            before another is fetched. Defaults to None: all are kept.
    """

    def __init__(self,
                 url: Callable[[str], str],
                 folder: str,
                 size: Optional[int] = None) -> None:
        self._url = url
        self._folder = folder
        self._size = size

    def fetch(self, name: str, size: int) -> str:
        """Bring a file to this machine, if it is not here.

        Args:
            name (str): Of the file.
            size (int): Its bytes.

        Returns:
            str: Its path. Another process may delete it at any time.

        Raises:
            OSError: If it cannot be fetched, or has another size.
        """
        path = osp.join(self._folder, name)
        # It may still have been cut short by a power failure.
        if _size_of(path) == size:
            return path
        cache = webdataset().cache.FileCache(
            self._folder,
            url_to_name=lambda url: name,
            validator=None,
            cache_size=-1 if self._size is None else self._size,
            cache_cleanup_interval=0)
        # Beside the folder, since the cache would delete locks as well.
        locks = f'{self._folder}.locks'
        os.makedirs(self._folder, exist_ok=True)
        os.makedirs(locks, exist_ok=True)
        with FileLock(osp.join(locks, f'{name}.lock')):
            if _size_of(path) not in (None, size):
                os.remove(path)
            try:
                cache.get_file(self._url(name))
                check_size(path, size)
            except Exception as error:
                if osp.isfile(path):
                    os.remove(path)
                raise OSError(
                    f'Cannot fetch {self._url(name)} to {path}: '
                    f'{explain_failure(error)}') from error
            finally:
                # Of this download, if it failed, and of those that were
                # killed: only who holds the lock writes such files.
                for other in os.listdir(self._folder):
                    if other.startswith(f'{name}.temp'):
                        os.remove(osp.join(self._folder, other))
        return path


def read_url(url: str) -> bytes:
    """Read a small file.

    Raises:
        OSError: If it cannot be read.
    """
    gopen = webdataset().gopen
    try:
        with gopen(url) as file:
            return file.read()
    except OSError as error:
        raise OSError(
            f'{url} cannot be read: {explain_failure(error)}') from error


def explain_failure(error: Exception) -> str:
    """What a command that fetches said, without its whole command line.

    Args:
        error (Exception): From ``webdataset``, which runs the command.

    Returns:
        str: Command, status and, for curl, what that means.
    """
    found = re.fullmatch(r'\(\((.*)\), \{.*\}\): exit (-?\d+) \(read\) .*',
                         str(error), re.DOTALL)
    if found is None:
        return str(error)
    words = re.findall(r'[^\s\[\]"\',]+', found[1])
    command, status = words[0] if words else 'its command', int(found[2])
    meaning = _CURL_STATUS.get(status) if command == 'curl' else None
    return f'{command} ended with status {status}' + (
        f' ({meaning})' if meaning else '')


def check_size(path: str, size: int) -> None:
    """Refuse a file that is not the one in the index.

    Raises:
        OSError: If it does not exist, or does not have ``size`` bytes.
    """
    found = osp.getsize(path)
    if found != size:
        raise OSError(f'{path} has {found} bytes, but {size} by the index: '
                      'it is damaged, or belongs to other shards.')


def _size_of(path: str) -> Optional[int]:
    try:
        return osp.getsize(path)
    except FileNotFoundError:  # also, if it is just being deleted
        return None


def webdataset() -> ModuleType:
    """The optional package that writes shards and opens URLs.

    Raises:
        ImportError: If it is not installed.
    """
    try:
        import webdataset
    except ImportError as error:
        raise ImportError(
            'Shards are written, and fetched from a URL, by the package '
            'webdataset: pip install "dmae_mm[shards]"') from error
    return webdataset
