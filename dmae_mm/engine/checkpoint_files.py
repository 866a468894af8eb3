"""Checkpoint files that are whole or not there, and what is wrong with one."""
import errno
import os
import os.path as osp
import shutil
import zipfile
from pathlib import Path
from typing import List, Optional, Union

from mmengine.fileio import LocalBackend, register_backend

# Behind the name of a file that is being written.
WRITING = '.writing'
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class CannotWrite(OSError):
    """A checkpoint could not be written; its text says why."""


def write_atomically(path: str, content: bytes) -> None:
    """Replace a file, or leave it as it was: nothing in between.

    The content is on the disk before the file gets its name.

    Args:
        path (str): The file.
        content (bytes): What is to be in it.

    Raises:
        CannotWrite: If so. The message names the place, and on
            a full disk the bytes needed and free.
    """
    folder, name = osp.split(osp.abspath(path))
    temporary = osp.join(folder, name + WRITING)
    try:
        with open(temporary, 'wb') as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(folder)
    except OSError as error:
        # What is there of it takes space that others lack.
        if osp.lexists(temporary):
            os.remove(temporary)
        raise explained(error, path, len(content)) from error


def _sync_folder(folder: str) -> None:
    """Make a new name as durable as the file."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems know no such thing for folders.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def explained(error: OSError, path: str, size: int = 0) -> CannotWrite:
    """The error of writing a file, with what a person has to know.

    Args:
        error (OSError): What was raised.
        path (str): What could not be written, or its folder.
        size (int): Bytes needed; 0 if not known.

    Returns:
        CannotWrite: Of the same number.
    """
    folder = path if osp.isdir(path) else osp.dirname(osp.abspath(path))
    needed = f' needs {size:,} bytes and' if size else ''
    if error.errno in NO_SPACE:
        free = shutil.disk_usage(folder).free
        reason = (f'{path}{needed} cannot be written: {error.strerror}. '
                  f'{free:,} bytes are free on the disk mounted at '
                  f'{_mount_point(folder)}')
        if error.errno != errno.ENOSPC:
            reason += ' (a quota or a limit of the file size may be lower)'
        advice = 'Free some space'
    else:
        reason = f'{path} cannot be written: {error.strerror}'
        advice = 'Make the folder writable'
    return CannotWrite(
        error.errno, f'{reason}. Earlier checkpoints are as they were. '
        f'{advice}, then start the same command with --resume.')


def _mount_point(folder: str) -> str:
    while not osp.ismount(folder):
        folder = osp.dirname(folder)
    return folder


class AtomicLocalBackend(LocalBackend):
    """mmengine's local files, but checkpoints are written atomically.

    Importing this registers it with mmengine for local paths, so that it
    serves all that writes checkpoints: hooks, strategies, other toolboxes.
    Files of other kinds are written as before.
    """

    def put(self, obj: bytes, filepath: Union[str, Path]) -> None:
        """Write a file.

        Args:
            obj (bytes): Its content.
            filepath (str or Path): Its path.
        """
        if str(filepath).endswith('.pth'):
            os.makedirs(osp.dirname(osp.abspath(filepath)), exist_ok=True)
            write_atomically(str(filepath), obj)
        else:
            super().put(obj, filepath)


register_backend('local', AtomicLocalBackend, force=True, prefixes='')


def remove_leftovers(folder: str) -> List[str]:
    """Remove what interrupted writes have left.

    Args:
        folder (str): Where checkpoints are, which nobody else writes to.

    Returns:
        list[str]: Names of the files removed.
    """
    names = [
        name for name in os.listdir(folder)
        if name.endswith(('.pth' + WRITING, 'last_checkpoint' + WRITING))
    ]
    for name in names:
        os.remove(osp.join(folder, name))
    return names


def damage(path: str) -> Optional[str]:
    """What is wrong with a checkpoint file.

    ``torch.load`` compares no checksums: it loads wrong numbers.

    Args:
        path (str): A local file, written by ``torch.save``.

    Returns:
        str: What is wrong; None if all its checksums are right.
    """
    if not osp.isfile(path):
        return 'it does not exist'
    if osp.getsize(path) == 0:
        return 'it is empty'
    try:
        with zipfile.ZipFile(path) as archive:
            wrong = archive.testzip()
    except (zipfile.BadZipFile, OSError, EOFError, ValueError) as error:
        return f'it is cut off or not a checkpoint ({error})'
    return wrong and f'the checksum of {wrong!r} in it is wrong'


def check_before_resuming(path: str) -> None:
    """Refuse a checkpoint that is damaged.

    Args:
        path (str): What a run is to be resumed from.

    Raises:
        ValueError: If it is damaged. The message names the newest one in the
            same folder that is not.
    """
    problem = damage(path)
    if problem is None:
        return
    folder = osp.dirname(osp.abspath(path))
    others = sorted(
        (file for file in Path(folder).glob('*.pth')
         if osp.abspath(file) != osp.abspath(path)),
        key=lambda file: file.stat().st_mtime,
        reverse=True) if osp.isdir(folder) else []
    good = next((file for file in others if not file.name.startswith('best_')
                 and damage(str(file)) is None), None)
    raise ValueError(
        f'The checkpoint {path} cannot be resumed from: {problem}. ' +
        (f'The newest other one that is whole is {good}: give --resume {good}.'
         if good else f'There is no other one that is whole in {folder}.'))
