"""Checkpoints that are named by URL: fetched once a machine, whole or not."""
import hashlib
import http.client
import os
import os.path as osp
import re
import shutil
from typing import Optional
from urllib.parse import urlparse
from urllib.request import Request, urlopen

import torch
from filelock import FileLock
from mmengine.logging import print_log

from dmae_mm.files import CannotWrite, remove_leftovers, write_whole
from dmae_mm.host import CHECKPOINTS
from dmae_mm.messages import first_few

TIMEOUT_SECONDS = 60
_CONFIGS = ('.py', '.yml', '.yaml', '.json')


def local_path(source: str) -> str:
    """Where the file of a checkpoint lies; a URL is downloaded first.

    A lock on the file system lets one process or thread download while the
    others wait, so no process group is needed, and where the download fails,
    each process says so itself instead of waiting for another.

    Args:
        source (str): A path, or an http(s) URL.

    Returns:
        str: The path itself, or that of the download. Downloads are kept in
        ``torch.hub.get_dir()``, by URL: equal names at different addresses
        are different files. What torch.hub has fetched before is taken
        from there if its name holds a checksum, and that is right.

    Raises:
        FileNotFoundError: If a path names no file.
        ValueError: If it names a config.
        OSError: If the download fails.
    """
    url = urlparse(source)
    if url.scheme not in ('http', 'https'):
        if source.lower().endswith(_CONFIGS):
            raise ValueError(f'{source} is a config, not a checkpoint: give '
                             'the config first, then the checkpoint.')
        if osp.isfile(source):
            return source
        if osp.isdir(source):
            raise FileNotFoundError(f'The checkpoint {source} '
                                    f'{what_folder(source)}')
        raise FileNotFoundError(f'The checkpoint {source} does not exist. '
                                'Give the path of a file or an http(s) URL.')
    name = osp.basename(url.path)
    if not name:
        raise FileNotFoundError(f'The checkpoint {source} is a URL without '
                                'the name of a file.')
    folder = osp.join(torch.hub.get_dir(), 'checkpoints', 'dmae_mm',
                      hashlib.sha256(source.encode()).hexdigest()[:16])
    path = osp.join(folder, name)
    fetched = osp.join(torch.hub.get_dir(), 'checkpoints', name)
    if not osp.exists(path):
        checksum = checksum_in_name(name)
        if checksum and osp.isfile(fetched) and sha256_of(fetched).startswith(
                checksum):
            return fetched
        os.makedirs(folder, exist_ok=True)
        with FileLock(osp.join(folder, '.lock')):
            if not osp.exists(path):
                remove_leftovers(folder)
                _download(source, path)
    return path


def what_folder(path: str) -> str:
    """What to say of a folder that was given as a checkpoint."""
    inside = sorted(name for name in os.listdir(path)
                    if name.lower().endswith(CHECKPOINTS))
    if not inside:
        return ('is a folder, without a file of weights. Give the path of a '
                'file or an http(s) URL.')
    return (f'is a folder. Give the path of a file in it: '
            f'{first_few([osp.join(path, name) for name in inside])}.')


def checksum_in_name(name: str) -> Optional[str]:
    """First digits of the SHA-256, where a file's name ends in them.

    Args:
        name (str): As in OpenMMLab's model zoo: 'vit_20220101-8f5d5d2b.pth'.

    Returns:
        str | None: Eight or more hexadecimal digits. Decimal digits alone
        are taken for a date.
    """
    digits = re.search(r'-([0-9a-f]{8,64})\.\w+$', name)
    if digits is None or digits.group(1).isdecimal():
        return None
    return digits.group(1)


def sha256_of(*paths: str) -> str:
    """SHA-256 of a file, or of all bytes of several: 64 hexadecimal
    digits."""
    digest = hashlib.sha256()
    for path in paths:
        with open(path, 'rb') as file:
            for chunk in iter(lambda: file.read(1 << 20), b''):
                digest.update(chunk)
    return digest.hexdigest()


def _download(url: str, path: str) -> None:
    """Write the file at ``url`` to ``path``, or nothing at all."""
    print_log(f'Downloading {url} to {path}', logger='current')
    try:
        with write_whole(path) as unfinished:
            _fetch(url, unfinished)
    except CannotWrite:
        raise
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise OSError(
            f'The checkpoint {url} cannot be downloaded: {error}. Check the '
            'address, or download it elsewhere and give its path.') from error


def _fetch(url: str, path: str) -> None:
    request = Request(url, headers={'User-Agent': 'dmae_mm'})
    with urlopen(request, timeout=TIMEOUT_SECONDS) as response, \
            open(path, 'wb') as file:
        shutil.copyfileobj(response, file)
        size = file.tell()
        # A connection that breaks off looks like the end of the file.
        promised = int(response.headers.get('Content-Length', size))
    if size != promised:
        raise OSError(f'{size} of {promised} bytes arrived')
    digest, checksum = sha256_of(path), checksum_in_name(path) or ''
    if not digest.startswith(checksum):
        raise OSError(f'its name promises the checksum {checksum}, but its '
                      f'SHA-256 is {digest}')
