import dataclasses
import json
import re
from pathlib import Path
from typing import Any, Dict, List, Optional, Set

from .config_text import read_config

# Not curves: they say where on a curve a value belongs.
_COUNTERS = {'iter', 'epoch', 'step'}
# An evaluation's own times say nothing about the training.
_TIMES = {'time', 'data_time'}
_PICTURE = re.compile(r'(.+)_(\d+)')
_SETTING = re.compile(r' {4}(\S[^:]*): (.*)')
_COMMAND = re.compile(r' - INFO - Command: (.*)')
_RESUMED = re.compile(r'resumed epoch: \d+, iter: (\d+)')
_POSITION = re.compile(r'(?:Epoch\(train\) *\[\d+\]\[ *\d+/(\d+)\]'
                       r'|Iter\(train\) \[)')


@dataclasses.dataclass
class Start:
    """What one start of a run has left in its folder.

    MMEngine makes a folder, named after the time, each time that a run is
    started or resumed. What cannot be read is left out and said in ``notes``.

    Attributes:
        folder (Path): ``WORK_DIR/TIMESTAMP``.
        curves (dict): For each logged name, iteration and value. What is
            logged once an epoch stands at the iteration that ended it.
        measured (set[str]): Those of the names that are not logged during
            an iteration, such as the accuracy of a validation.
        pictures (dict): For each name, step and file.
        first (int): Iterations that were done before this start.
        epoch_length (int, optional): Iterations of an epoch.
        last_epoch (int): The last that was logged, 0 if none was.
        environment (dict[str, str]): What MMEngine logs when it starts.
        config (dict, optional): The config.
        config_text (str): The config as it was written.
        written (float): When a value was last logged, in seconds of Unix
            time; 0 if none was.
        notes (list[str]): What is missing or damaged.
    """
    folder: Path
    curves: Dict[str, Dict[int, float]] = dataclasses.field(
        default_factory=dict)
    measured: Set[str] = dataclasses.field(default_factory=set)
    pictures: Dict[str, Dict[int, Path]] = dataclasses.field(
        default_factory=dict)
    first: int = 0
    epoch_length: Optional[int] = None
    last_epoch: int = 0
    environment: Dict[str, str] = dataclasses.field(default_factory=dict)
    config: Optional[Dict[str, Any]] = None
    config_text: str = ''
    written: float = 0
    notes: List[str] = dataclasses.field(default_factory=list)

    def __post_init__(self) -> None:
        resumed = self._read_log()
        self._read_config()
        self._read_scalars(resumed or 0)
        if resumed is None and not self.environment:
            # The log does not tell: then by the first iteration in it.
            resumed = min((min(curve) for name, curve in self.curves.items()
                           if name not in self.measured), default=1) - 1
        self.first = resumed or 0
        self._find_pictures()

    @property
    def last(self) -> int:
        """The last iteration that was logged; 0 if none was."""
        return max((max(curve) for curve in self.curves.values()), default=0)

    def _text(self, path: Path) -> str:
        """A file's text; '' and a note if it cannot be read."""
        try:
            return path.read_text(encoding='utf-8', errors='replace')
        except OSError as error:
            self._note(path, f'cannot be read: {error.strerror or error}')
            return ''

    def _note(self, path: Path, what: str) -> None:
        self.notes.append(f'{path.relative_to(self.folder.parent)} {what}.')

    def _read_log(self) -> Optional[int]:
        """Environment and length of an epoch.

        Returns:
            int | None: The iteration at which the run went on, if it did.
        """
        resumed, in_block = None, False
        path = self.folder / f'{self.folder.name}.log'
        try:
            with path.open(encoding='utf-8', errors='replace') as lines:
                for line in lines:
                    line = line.rstrip('\n')
                    if line.endswith(' environment:'):
                        in_block = True
                    elif line.startswith('-----'):
                        in_block = False
                    elif in_block and (match := _SETTING.fullmatch(line)):
                        self.environment[match[1]] = match[2]
                    elif match := _COMMAND.search(line):
                        self.environment['Command'] = match[1]
                    elif match := _RESUMED.search(line):
                        resumed = int(match[1])
                    elif match := _POSITION.search(line):
                        if match[1]:
                            self.epoch_length = int(match[1])
                        break
        except OSError as error:
            self._note(path, f'cannot be read: {error.strerror or error}')
        return resumed

    def _read_config(self) -> None:
        path = self.folder / 'vis_data' / 'config.py'
        self.config_text = self._text(path)
        try:
            self.config = read_config(self.config_text) or None
        except (SyntaxError, ValueError, RecursionError) as error:
            self._note(path, f'is no config that can be read ({error})')

    def _read_scalars(self, iteration: int) -> None:
        """The curves. Lines that a kill has cut off are counted."""
        path = self.folder / 'vis_data' / 'scalars.json'
        if not path.exists():
            return  # made with the first value
        broken, no_numbers = [], set()
        lines = self._text(path).split('\n')
        for number, text in enumerate(lines, 1):
            if not text.strip():
                continue
            try:
                line = json.loads(text)
                if not isinstance(line, dict):
                    raise ValueError('not an object')
                step = int(line.get('iter', line.get('step', 0)))
                self.last_epoch = max(self.last_epoch,
                                      int(line.get('epoch', 0)))
            except (ValueError, TypeError, RecursionError):
                broken.append(number)
                continue
            if 'iter' in line:
                iteration = step
            during = 'iter' in line
            for name, value in line.items():
                if name in _COUNTERS or (not during and name in _TIMES):
                    continue
                if isinstance(value, bool) or not isinstance(
                        value, (int, float)):
                    no_numbers.add(name)
                    continue
                name = name.removeprefix('train/')
                if not during:
                    name = name if '/' in name else f'val/{name}'
                    self.measured.add(name)
                at = iteration if during else self._place(step, iteration)
                self.curves.setdefault(name, {})[at] = float(value)
        if broken:
            where = ', '.join(map(str, broken[:5]))
            more = ', ...' if len(broken) > 5 else ''
            self._note(path, f'has {len(broken)} broken '
                       f'line{"s" * (len(broken) > 1)} ({where}{more}), '
                       'as a kill in the middle of writing leaves')
        if no_numbers:
            self._note(path, 'has values that are no numbers and are not '
                       f'drawn: {", ".join(sorted(no_numbers))}')
        if self.curves:
            self.written = path.stat().st_mtime

    def _place(self, step: int, iteration: int) -> int:
        """The iteration of a value that was not logged during one.

        MMEngine gives such values an epoch or an iteration as step, and does
        not say which. They follow the last line of that epoch in the file, at
        most an epoch behind it.
        """
        if step >= iteration or not self.epoch_length:
            return max(step, iteration)
        end = step * self.epoch_length
        return end if 0 <= end - iteration < self.epoch_length else iteration

    def _find_pictures(self) -> None:
        folder = self.folder / 'vis_data' / 'vis_image'
        for path in sorted(folder.glob('**/*.png')):
            name = str(path.relative_to(folder).with_suffix(''))
            match = _PICTURE.fullmatch(name)
            name, step = match.groups() if match else (name, 0)
            self.pictures.setdefault(name, {})[int(step)] = path
