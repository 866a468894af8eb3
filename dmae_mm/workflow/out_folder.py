"""The folder of one result, and what `distill` remembers of it there."""
import hashlib
import json
import os
import os.path as osp
import platform
import time
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Callable, Dict, Optional

from dmae_mm.engine.checkpointing import damage
from dmae_mm.engine.work_dir import (checkpoints_in, last_checkpoint,
                                     lock_work_dir, run_progress)
from dmae_mm.files import check_place, explained, write_whole
from dmae_mm.messages import first_few
from dmae_mm.version import __version__

from .arguments import Arguments

STATE, CONFIG = 'distill.json', 'config.py'
_PACKAGES = ('torch', 'torchvision', 'timm', 'mmengine', 'mmpretrain')


class OutFolder:
    """Where a result lies, whole or not yet.

    ``distill.json`` has the arguments and the versions of the packages, and,
    for each thing that was made of the trained student, what it was made of:
    :meth:`made`.

    Args:
        arguments (Arguments): Of this start.

    Raises:
        ValueError: If the folder is not for these arguments: it holds the
            result of others, or something else, or lies among the images.
        OSError: If it cannot be written to.
    """

    def __init__(self, arguments: Arguments) -> None:
        self.path, self.arguments = arguments.out, arguments
        self.state_file = osp.join(self.path, STATE)
        self.config_file = osp.join(self.path, CONFIG)
        _refuse_inside(self.path, arguments.images, 'IMAGES')
        if arguments.labels is not None:
            _refuse_inside(self.path, arguments.labels, '--labels')
        if osp.lexists(self.path) and not osp.isdir(self.path):
            raise ValueError(f'--out {self.path} is a file. Give a folder.')
        self._state = self._earlier()
        check_place(self.state_file)

    def _earlier(self) -> Dict[str, Any]:
        """What a start before this one has noted; {} for the first."""
        try:
            with open(self.state_file) as file:
                state = json.load(file)
            earlier = dict(state['arguments'])
        except FileNotFoundError:
            self._refuse_strangers()
            return {}
        except (ValueError, KeyError, TypeError):
            raise ValueError(
                f'{self.state_file} is damaged, so that nobody can tell whose '
                f'result lies there. Delete {self.path}, or give another '
                '--out.') from None
        other = self.arguments.differences(earlier)
        if other and not (self.checkpoint or self.config_changed(state)):
            # Nothing came of it, and its config may be written over.
            return {name: state[name] for name in state
                    if name == 'config_sha256'}
        if other:
            raise ValueError(
                f'{self.path} holds the result of other arguments: '
                f'{"; ".join(other)}. Give another --out, or delete that '
                'folder.')
        return state

    def _refuse_strangers(self) -> None:
        there = sorted(
            name for name in os.listdir(self.path)
            if not name.startswith('.')) if osp.isdir(self.path) else []
        if there:
            raise ValueError(
                f'{self.path} is no result of distill, and not empty: it '
                f'holds {first_few(there)}. Give a new folder as --out.')

    def config_changed(self, state: Optional[Dict[str, Any]] = None) -> bool:
        """Whether the config is there, and not as it was written."""
        state = self._state if state is None else state
        return osp.isfile(self.config_file) and state.get(
            'config_sha256') != _sha256(self.config_file)

    def write_config(self, text: str) -> None:
        """Write the config, which :meth:`config_changed` then knows."""
        with write_whole(self.config_file) as unfinished:
            Path(unfinished).write_text(text)
        self.note(config_sha256=_sha256(self.config_file))

    def begin(self) -> None:
        """Make the folder, lock it until the process ends, note the start.

        Raises:
            WorkDirInUse: If another process has it.
            OSError: If it cannot be written to.
        """
        try:
            os.makedirs(self.path, exist_ok=True)
        except OSError as error:
            raise explained(error, self.path) from error
        lock_work_dir(self.path)
        self._state.setdefault('begun', time.strftime('%Y-%m-%d %H:%M:%S'))
        self.note(
            arguments=self.arguments.as_json(),
            command=self.arguments.command(),
            versions=_versions())

    def note(self, **values: Any) -> None:
        """Keep values in the state file, which is replaced as a whole."""
        self._state.update(values)
        with write_whole(self.state_file) as unfinished:
            Path(unfinished).write_text(
                json.dumps(self._state, indent=2) + '\n')

    def recall(self, name: str, default: Any = None) -> Any:
        """A value that was noted, in this start or an earlier one."""
        return self._state.get(name, default)

    @property
    def checkpoint(self) -> Optional[str]:
        """Path of the newest checkpoint; None if there is none.

        It is the one that ``last_checkpoint`` names, also where the folder
        was moved; a run may have been killed before it named one.
        """
        names = [osp.basename(last_checkpoint(self.path)),
                 *checkpoints_in(self.path)[::-1]]
        paths = [osp.join(self.path, name) for name in names if name]
        return next(filter(osp.isfile, paths), None)

    def whole_checkpoint(self, say: Callable[[str], None]) -> Optional[str]:
        """The newest checkpoint that is not damaged; None if there is none.

        Args:
            say (Callable): Takes a line on each that is.
        """
        paths = [osp.join(self.path, name)
                 for name in checkpoints_in(self.path)[::-1]]
        newest = self.checkpoint
        for path in dict.fromkeys([newest, *paths] if newest else ()):
            problem = damage(path)
            if problem is None:
                return path
            say(f'{path} is not used: {problem}.')
        return None

    def trained(self) -> Optional[str]:
        """The checkpoint of the finished training; None before its end."""
        path = self.checkpoint
        try:
            done, length, _ = run_progress(path) if path else (0, None, '')
        except ValueError:  # it is damaged
            return None
        return path if length is not None and done >= length else None

    def note_made(self, what: str, **values: Any) -> None:
        """Keep that something was made of the trained student.

        Args:
            what (str): Its name.
            **values: What it was made of, and all that is to be told of it.
        """
        self.note(made={**self.recall('made', {}), what: values})

    def made(self, what: str, **made_of: Any) -> Optional[Dict[str, Any]]:
        """What was noted when it was made; None if it is not there.

        Args:
            what (str): Its name.
            **made_of: Values that must be the same as then.
        """
        found = self.recall('made', {}).get(what)
        if found is None or any(found.get(name) != value
                                for name, value in made_of.items()):
            return None
        return found if osp.exists(osp.join(self.path,
                                            found['file'])) else None


def _refuse_inside(out: str, folder: str, name: str) -> None:
    """A result among images would be trained on, pictures and all."""
    if is_inside(out, folder):
        raise ValueError(f'--out {out} lies inside {name}, {folder}: the '
                         'pictures of a run would become images of the next. '
                         'Give a folder outside.')


def is_inside(path: str, folder: str) -> bool:
    """Whether a path, links followed, is a folder or lies under it."""
    real, above = osp.realpath(path), osp.realpath(folder)
    return osp.commonpath([real, above]) == above


def _sha256(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def _versions() -> Dict[str, str]:
    found = dict(dmae_mm=__version__, python=platform.python_version())
    for package in _PACKAGES:
        for name in (package, f'onedl-{package}'):
            with suppress(PackageNotFoundError):
                found[package] = version(name)
    return found
