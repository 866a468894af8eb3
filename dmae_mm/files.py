"""Files and folders that are whole or not there."""
import contextlib
import errno
import os
import os.path as osp
import shutil
import tempfile
from typing import Iterator, List

# How the names of folders begin in which something is being written.
WRITING = '.writing-'
WINDOWS = os.name == 'nt'
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NO_ACCESS = (errno.EACCES, errno.EPERM, errno.EROFS)


class CannotWrite(OSError):
    """Something could not be written; its text says why."""


@contextlib.contextmanager
def write_whole(path: str, advice: str = '', size: int = 0) -> Iterator[str]:
    """Write a file or folder, or leave what is there as it was.

    ::

        with write_whole('out/picture.png') as unfinished:
            image.save(unfinished)

    What the body of the ``with`` writes lies on the disk before it gets its
    name. A body that raises leaves nothing behind, no new folders either; a
    process that is killed leaves a hidden folder, which
    :func:`remove_leftovers` removes.

    Args:
        path (str): The file or folder. Folders above it are made. A file
            there is replaced; a folder there must be empty.
        advice (str): What a person can do when the disk is full or must not
            be written to. Defaults to '': free space, or another place.
        size (int): Bytes needed, for the message on a full disk. Defaults to
            0: not known.

    Yields:
        str: Where to write it: a path of the same name in the same file
        system.

    Raises:
        CannotWrite: If the disk is full or must not be written to. The
            message names the place, and on a full disk the bytes free.
    """
    folder, name = osp.split(osp.abspath(path))
    try:
        with _folder_for(folder), tempfile.TemporaryDirectory(
                prefix=WRITING, dir=folder) as own:
            unfinished = osp.join(own, name)
            yield unfinished
            for parent, _, files in os.walk(own):
                for file in files:
                    _sync(osp.join(parent, file))
            if WINDOWS and osp.isdir(path):
                os.rmdir(path)  # it replaces files only
            os.replace(unfinished, path)
            _sync(folder)
    except OSError as error:
        if isinstance(error, CannotWrite) or (error.errno not in NO_SPACE +
                                              NO_ACCESS):
            raise
        raise explained(error, path, advice, size) from error


@contextlib.contextmanager
def _folder_for(path: str) -> Iterator[None]:
    """Make a folder and those above it, but keep none if the body raises."""
    missing, above = [], path
    while not osp.isdir(above):
        missing.append(above)
        above = osp.dirname(above)
    try:
        os.makedirs(path, exist_ok=True)
        yield
    except BaseException:
        with contextlib.suppress(OSError):  # others have written there
            for folder in missing:
                os.rmdir(folder)
        raise


def _sync(path: str) -> None:
    """Have the disk hold a file, or the names in a folder."""
    if WINDOWS and osp.isdir(path):
        return  # it opens no folders
    # Windows brings to the disk only what is open for writing.
    descriptor = os.open(path, os.O_RDWR if WINDOWS else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems know no such thing for folders.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def explained(error: OSError,
              path: str,
              advice: str = '',
              size: int = 0) -> CannotWrite:
    """The error of writing something, with what a person has to know.

    Args:
        error (OSError): What was raised.
        path (str): What could not be written, or its folder.
        advice (str): What to do. Defaults to '': free space, or another
            place.
        size (int): Bytes needed. Defaults to 0: not known.

    Returns:
        CannotWrite: Of the same number.
    """
    folder = path if osp.isdir(path) else osp.dirname(osp.abspath(path))
    full = error.errno in NO_SPACE
    needed = f' needs {size:,} bytes and' if size and full else ''
    reason = f'{path}{needed} cannot be written: {error.strerror}.'
    if full:
        while not osp.isdir(folder):
            folder = osp.dirname(folder)
        free = shutil.disk_usage(folder).free
        reason += (f' {free:,} bytes are free on the disk mounted at '
                   f'{_mount_point(folder)}')
        if error.errno != errno.ENOSPC:
            reason += ' (a quota or a limit of the file size may be lower)'
        reason += '. ' + (advice or 'Free some space, or write elsewhere.')
    else:
        reason += ' ' + (advice or 'Make the folder writable, or write '
                         'elsewhere.')
    return CannotWrite(error.errno, reason)


def _mount_point(folder: str) -> str:
    while not osp.ismount(folder):
        folder = osp.dirname(folder)
    return folder


def remove_leftovers(folder: str) -> List[str]:
    """Remove what interrupted writes have left.

    Args:
        folder (str): A folder that nobody else writes to.

    Returns:
        list[str]: Names of what was unfinished.
    """
    names = []
    for entry in list(os.scandir(folder)):
        if entry.name.startswith(WRITING) and entry.is_dir():
            names += os.listdir(entry.path)
            shutil.rmtree(entry.path)
    return names


def check_place(path: str) -> None:
    """Find out before the work whether a file can be written after it.

    Args:
        path (str): The file. Nothing is made.

    Raises:
        OSError: If it is a folder, or its folder cannot be written to.
    """
    if osp.isdir(path):
        raise IsADirectoryError(f'{path} is a folder. Give the name of a '
                                'file.')
    folder = osp.dirname(osp.abspath(path))
    while not osp.lexists(folder):
        folder = osp.dirname(folder)
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise explained(error, path) from error
