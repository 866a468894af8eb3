"""What a run has left in its work dir: whole, resumed, killed or damaged."""
import json
import math
import re
from pathlib import Path
from typing import Dict, List, Optional, Set

from dmae_mm.config_text import differences, flat_config
from dmae_mm.messages import first_few


# MMEngine makes a folder of such a name at each start of a run.
_TIMESTAMP = re.compile(r'\d{8}_\d{6}')
_ENVIRONMENT = re.compile(r'^System environment:\n(.*?)(?:^-----|\Z)',
                          re.MULTILINE | re.DOTALL)
_SETTING = re.compile(r'^ {4}(\S[^:\n]*): (.*)$', re.MULTILINE)
_COMMAND = re.compile(r' - INFO - Command: (.*)')
# What LearningRateHook says.
_SAID = re.compile(r' - WARNING - Note: (.*)')
_RESUMED = re.compile(r'resumed epoch: \d+, iter: (\d+)')
_POSITION = re.compile(r'Epoch\(train\) *\[\d+\]\[ *\d+/(\d+)\]'
                       r'|Iter\(train\) \[')
# Not curves: they say where on a curve a value belongs.
_COUNTERS = {'iter', 'epoch', 'step'}
# An evaluation's own times say nothing about the training.
_TIMES = {'time', 'data_time'}


class Start:
    """What one start of a run has left in its folder.

    What cannot be read is left out and said in ``notes``.

    Args:
        folder (Path): ``WORK_DIR/TIMESTAMP``.

    Attributes:
        first (int): Iterations that were done before this start.
        last (int): The last iteration that was logged; 0 if none was.
        epoch_length (int): Iterations of an epoch; 0 if it is not known.
        last_epoch (int): The last that was logged, 0 if none was.
        environment (dict[str, str]): What MMEngine logs when it starts.
        config_text (str): The config as it was written.
        config (dict[str, str], optional): The config, flat, unless it cannot
            be read.
        curves (dict): For each logged name, iteration and value. What is
            logged once an epoch stands at the iteration that ended it.
        measured (set[str]): Those of the names that are not logged during
            an iteration, such as the accuracy of a validation.
        written (float): When a value was last logged, in seconds of Unix
            time; 0 if none was.
        pictures (dict): For each name, step and file.
        notes (list[str]): What is missing or damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.notes: List[str] = []
        head = self._text(f'{folder.name}.log')
        if position := _POSITION.search(head):
            head = head[:position.start()]
        self.epoch_length = int(position[1]) if position and position[1] else 0
        block = _ENVIRONMENT.search(head)
        self.environment = dict(_SETTING.findall(block[1])) if block else {}
        if command := _COMMAND.search(head):
            self.environment['Command'] = command[1]
        self.notes += [f'Said at the start: {note}.'
                       for note in _SAID.findall(head)]
        resumed = _RESUMED.search(head)
        self.first = int(resumed[1]) if resumed else 0

        self.config_text = self._text('vis_data/config.py')
        self.config: Optional[Dict[str, str]] = None
        try:
            self.config = flat_config(self.config_text) or None
        except (SyntaxError, ValueError, RecursionError) as error:
            self._note('vis_data/config.py', 'is no config that can be read '
                       f'({error})')

        self.last_epoch = 0
        self.curves: Dict[str, Dict[int, float]] = {}
        self.measured: Set[str] = set()
        self.written = 0.
        scalars = folder / 'vis_data' / 'scalars.json'
        if scalars.exists():  # made with the first value
            self.written = scalars.stat().st_mtime
            self._read_scalars()
        self.last = max(map(max, self.curves.values()), default=0)
        if not (resumed or self.environment):
            # The log does not tell: then by the first iteration with a value.
            self.first = min((min(curve) for name, curve in self.curves.items()
                              if name not in self.measured), default=1) - 1
        self.pictures: Dict[str, Dict[int, Path]] = {}
        images = folder / 'vis_data' / 'vis_image'
        for path in sorted(images.glob('**/*.png')):
            name = str(path.relative_to(images).with_suffix(''))
            match = re.fullmatch(r'(.+)_(\d+)', name)
            name, step = match.groups() if match else (name, 0)
            self.pictures.setdefault(name, {})[int(step)] = path

    def _text(self, name: str) -> str:
        """A file's text; '' and a note if it cannot be read."""
        try:
            return (self.folder / name).read_text(
                encoding='utf-8', errors='replace')
        except OSError as error:
            self._note(name, f'cannot be read: {error.strerror or error}')
            return ''

    def _note(self, name: str, what: str) -> None:
        self.notes.append(f'{self.folder.name}/{name} {what}.')

    def _read_scalars(self) -> None:
        """The curves. Lines that a kill has cut off are counted."""
        name = 'vis_data/scalars.json'
        at, broken, no_numbers = self.first, [], set()
        for number, text in enumerate(self._text(name).split('\n'), 1):
            if not text.strip():
                continue
            try:
                line = dict(json.loads(text))
                step = int(line.get('iter', line.get('step', 0)))
                epoch = int(line.get('epoch', 0))
            except (ValueError, TypeError, OverflowError, RecursionError):
                broken.append(str(number))
                continue
            self.last_epoch = max(self.last_epoch, epoch)
            during = 'iter' in line
            if during:
                at = step
            for key, value in line.items():
                if key in _COUNTERS or (not during and key in _TIMES):
                    continue
                if type(value) not in (int, float):
                    no_numbers.add(key)
                    continue
                key = key.removeprefix('train/')
                if not during:
                    key = key if '/' in key else f'val/{key}'
                    self.measured.add(key)
                self.curves.setdefault(key, {})[
                    at if during else self._end_of(step, at)] = float(value)
        if broken:
            self._note(name, f'has {len(broken)} broken '
                       f'line{"s" * (len(broken) > 1)} ({first_few(broken)}), '
                       'as a kill in the middle of writing leaves')
        if no_numbers:
            self._note(name, 'has values that are no numbers and are not '
                       f'drawn: {", ".join(sorted(no_numbers))}')

    def _end_of(self, step: int, iteration: int) -> int:
        """The iteration of a value that was not logged during one.

        MMEngine gives such values an epoch or an iteration as step, and does
        not say which. They follow the last line of that epoch in the file, at
        most an epoch behind it.
        """
        if step >= iteration or not self.epoch_length:
            return max(step, iteration)
        end = step * self.epoch_length
        return end if 0 <= end - iteration < self.epoch_length else iteration

    def option(self, name: str) -> Optional[int]:
        """An option of the config, if it is known and a whole number."""
        text = (self.config or {}).get(name, '')
        return int(text) if text.isdecimal() else None

    @property
    def images(self) -> Optional[int]:
        """Of an iteration: batch size times processes, if these are known."""
        size = self.option('train_dataloader.batch_size')
        processes = self.environment.get('GPU number', '')
        known = size and processes.isdecimal()
        return size * int(processes) if known else None


class Run:
    """A work dir: its starts, joined in the order of their iterations.

    Where a run was killed and resumed from an earlier checkpoint, iterations
    were done twice. Those that count are the later ones; the curves of the
    others are kept in ``repeated``.

    Args:
        path (Path): The work dir.
        name (str): What tells it from the other runs on the page.

    Attributes:
        starts (list[Start]): Those with logged values, in the order of time.
        curves, measured, pictures: As in :class:`Start`; and the curve
            ``images/s``, or ``iterations/s``, from the time of an iteration.
        repeated (dict): For each logged name, pieces of curves that were
            done again after a resume.
        notes (list[str]): What is missing, damaged or odd.
    """

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name = path, name
        self.curves: Dict[str, Dict[int, float]] = {}
        self.repeated: Dict[str, List[Dict[int, float]]] = {}
        self.measured: Set[str] = set()
        self.pictures: Dict[str, Dict[int, Path]] = {}
        self.notes: List[str] = []
        found = [Start(folder) for folder in sorted(path.iterdir())
                 if folder.is_dir() and _TIMESTAMP.fullmatch(folder.name)]
        # Also tests of a checkpoint make such folders.
        self.starts = [start for start in found if start.curves]
        for start in found:
            self.notes += [note for note in start.notes
                           if note not in self.notes]
            if start.curves:
                self._join(start)
            elif self.starts:  # else the whole run is said to have none
                self.notes.append(f'{start.folder.name} has no logged values.')
        for key, curve in self.curves.items():
            bad = [at for at in sorted(curve) if not math.isfinite(curve[at])]
            if bad:
                more = f', and {len(bad) - 1} times more' * (len(bad) > 1)
                self.notes.append(f'{key} is {curve[bad[0]]} at iteration '
                                  f'{bad[0]}{more}.')
        changed = [key for key in differences([start.config
                                               for start in self.starts])
                   if key not in ('resume', 'load_from')]
        if changed:
            self.notes.append('The config is not that of the first start in '
                              f'{", ".join(changed)}.')

    def _join(self, start: Start) -> None:
        again = 0
        for name, curve in self.curves.items():
            old = {at: curve.pop(at) for at in list(curve) if at > start.first}
            if old:
                self.repeated.setdefault(name, []).append(old)
                again = max(again, *old)
        for pictures in self.pictures.values():
            for step in [step for step in pictures if step > start.first]:
                del pictures[step]
        if again:
            begin = (f'went on from iteration {start.first}'
                     if start.first else 'began anew')
            self.notes.append(
                f'{start.folder.name} {begin}: what the start before had done '
                f'up to iteration {again} was done again (dotted in the '
                'curves).')
        rate = {at: (start.images or 1) / seconds
                for at, seconds in start.curves.get('time', {}).items()
                if seconds > 0}
        rates = {'images/s' if start.images else 'iterations/s': rate}
        for name, curve in [*start.curves.items(), *rates.items()]:
            if curve:
                self.curves.setdefault(name, {}).update(curve)
        for name, steps in start.pictures.items():
            self.pictures.setdefault(name, {}).update(steps)
        self.measured |= start.measured

    @property
    def total(self) -> Optional[int]:
        """Iterations of the whole run, if config and log tell."""
        last = self.starts[-1]
        epochs = last.option('train_cfg.max_epochs')
        if epochs and last.epoch_length:
            return epochs * last.epoch_length
        return last.option('train_cfg.max_iters')

    def per_iteration(self, what: str) -> Optional[float]:
        """Epochs or images of an iteration.

        Args:
            what (str): 'iterations', 'epochs' or 'images seen'.

        Returns:
            float | None: None if it is not known, or was not always the same.
        """
        if what == 'iterations':
            return 1
        values = {start.images if what == 'images seen' else start.epoch_length
                  for start in self.starts}
        value = values.pop()
        if values or not value:
            return None
        return value if what == 'images seen' else 1 / value


def what_is_wrong(path: Path) -> Optional[str]:
    """Why a path cannot be reported on.

    Args:
        path (Path): What should be a work dir.

    Returns:
        str | None: A sentence; None for a folder with at least one start.
    """
    if not path.exists():
        return f'there is no {path}'
    if not path.is_dir():
        return f'{path} is no folder; give the work dir of a run'
    try:
        if any(child.is_dir() and _TIMESTAMP.fullmatch(child.name)
               for child in path.iterdir()):
            return None
        if (path / 'vis_data').is_dir():
            return (f'{path} is one start of a run; give the work dir, '
                    f'{path.parent}')
        inside = sorted({str(folder.parents[1])
                         for folder in path.glob('**/vis_data')})
    except OSError as error:
        return f'{path} cannot be read: {error.strerror}'
    hint = (f'; give those below it: {first_few(inside, 10, " ")}'
            if inside else '')
    return (f'{path} is no work dir of a run: it has no folder named after '
            f'the time of a start, such as 20260131_235959{hint}')
