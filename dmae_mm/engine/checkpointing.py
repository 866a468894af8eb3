"""Checkpoint files that are whole or not there, and what is wrong with one."""
import os
import os.path as osp
import zipfile
from pathlib import Path
from typing import Dict, Optional, Union

from mmengine.fileio import LocalBackend, register_backend
from mmengine.runner import find_latest_checkpoint

from dmae_mm.files import write_whole

ADVICE = ('Earlier checkpoints are as they were. Free some space, or make the '
          'folder writable, then start the same command with --resume.')

# What this process has found to be sound, and when it was last changed.
_sound: Dict[Path, int] = {}


def write_run_file(path: str, content: bytes) -> None:
    """Replace a file of a run, or leave it as it was.

    Args:
        path (str): The file.
        content (bytes): What is to be in it.

    Raises:
        CannotWrite: If so. The message names the place, and on a full disk
            the bytes needed and free.
    """
    with write_whole(path, ADVICE, len(content)) as unfinished:
        Path(unfinished).write_bytes(content)


@register_backend('atomic_local')
class AtomicLocalBackend(LocalBackend):
    """MMEngine's local files, but what is written is whole or not there.

    It serves who asks for it: ``backend_args=dict(backend='atomic_local')``,
    see :func:`whole_files`.
    """

    def put(self, obj: bytes, filepath: Union[str, Path]) -> None:
        """Write a file.

        Args:
            obj (bytes): Its content.
            filepath (str or Path): Its path.
        """
        write_run_file(str(filepath), obj)


def whole_files(folder: str) -> Optional[dict]:
    """``backend_args`` with which MMEngine writes whole files, or none.

    Args:
        folder (str): Where it writes.

    Returns:
        dict: None for a URL, which has a backend of its own.
    """
    return None if '://' in folder else dict(backend='atomic_local')


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


def check_before_resuming(work_dir: str, load_from: Optional[str]) -> None:
    """Refuse a checkpoint that is damaged.

    Reading all of it takes a while: a file that this process has found to be
    sound is not read again until it changes.

    Args:
        work_dir (str): Of the run.
        load_from (str, optional): What it is to be resumed from. None for
            the last checkpoint in the work dir. A URL is not checked.

    Raises:
        ValueError: If it is damaged. The message names the newest one in the
            same folder that is not.
    """
    path = load_from or find_latest_checkpoint(work_dir)
    if path is None or '://' in path:
        return
    file = Path(path).absolute()
    changed = file.stat().st_mtime_ns if file.is_file() else None
    if changed is not None and _sound.get(file) == changed:
        return
    problem = damage(path)
    if problem is None:
        _sound[file] = changed
        return
    others = sorted(
        (other for other in file.parent.glob('*.pth')
         if other != file and not other.name.startswith('best_')),
        key=os.path.getmtime,
        reverse=True)
    good = next((other for other in others if damage(str(other)) is None),
                None)
    raise ValueError(
        f'The checkpoint {path} cannot be resumed from: {problem}. ' +
        (f'The newest other one that is whole is {good}: give --resume {good}.'
         if good else f'There is no other one that is whole in {file.parent}.')
    )
