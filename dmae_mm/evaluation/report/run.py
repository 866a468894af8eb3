import dataclasses
import math
import os.path as osp
import re
import statistics
from pathlib import Path
from typing import Any, Dict, List, Optional, Set

from .config_text import differences
from .start import Start

_TIMESTAMP = re.compile(r'\d{8}_\d{6}')


@dataclasses.dataclass
class Run:
    """A work dir: its starts, joined in the order of their iterations.

    Where a run was killed and resumed from an earlier checkpoint, iterations
    were done twice. Those that count are the later ones; the curves of the
    others are kept in ``repeated``.

    Attributes:
        path (Path): The work dir.
        name (str): What tells it from the other runs on the page.
        starts (list[Start]): In the order of time.
        curves (dict): For each logged name, iteration and value.
        repeated (dict): For each logged name, pieces of curves that were
            done again after a resume.
        measured (set[str]): As in :class:`Start`.
        pictures (dict): For each name, step and file.
        notes (list[str]): What is missing, damaged or odd.
    """
    path: Path
    name: str
    starts: List[Start] = dataclasses.field(default_factory=list)
    curves: Dict[str, Dict[int, float]] = dataclasses.field(
        default_factory=dict)
    repeated: Dict[str, List[Dict[int, float]]] = dataclasses.field(
        default_factory=dict)
    measured: Set[str] = dataclasses.field(default_factory=set)
    pictures: Dict[str, Dict[int, Path]] = dataclasses.field(
        default_factory=dict)
    notes: List[str] = dataclasses.field(default_factory=list)

    def __post_init__(self) -> None:
        folders = sorted(
            path for path in self.path.iterdir()
            if path.is_dir() and _TIMESTAMP.fullmatch(path.name))
        found = [Start(folder) for folder in folders]
        # Also tests of a checkpoint make such folders.
        self.starts = [start for start in found if start.curves]
        for start in found:
            self.notes += start.notes
            if start.curves:
                self._join(start)
            elif self.starts:  # else the whole run is said to have none
                self.notes.append(f'{start.folder.name} has no logged values.')
        self._note_bad_values()
        configs = [start.config for start in self.starts]
        changed = [key for key in differences(configs)
                   if key not in ('resume', 'load_from')]
        if changed:
            self.notes.append('The config is not that of the first start in '
                              f'{", ".join(changed)}.')

    def _note_bad_values(self) -> None:
        for name, curve in self.curves.items():
            bad = [at for at, value in curve.items()
                   if not math.isfinite(value)]
            if bad:
                first = min(bad)
                more = f', and {len(bad) - 1} times more' * (len(bad) > 1)
                self.notes.append(f'{name} is {curve[first]} at iteration '
                                  f'{first}{more}.')

    def _join(self, start: Start) -> None:
        again = 0
        for name, curve in self.curves.items():
            old = {at: curve.pop(at) for at in list(curve) if at > start.first}
            if old:
                self.repeated.setdefault(name, []).append(old)
                again = max(again, max(old))
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
        for name, curve in start.curves.items():
            self.curves.setdefault(name, {}).update(curve)
        for name, pictures in start.pictures.items():
            self.pictures.setdefault(name, {}).update(pictures)
        self.measured |= start.measured
        self._add_throughput(start)

    def _add_throughput(self, start: Start) -> None:
        """Images a second, from the logged time of an iteration."""
        images = images_of_an_iteration(start)
        name = 'iterations/s' if images is None else 'images/s'
        curve = {at: (images or 1) / seconds
                 for at, seconds in start.curves.get('time', {}).items()
                 if seconds > 0}
        if curve:
            self.curves.setdefault(name, {}).update(curve)

    @property
    def last(self) -> int:
        """The last iteration."""
        return self.starts[-1].last

    @property
    def total(self) -> Optional[int]:
        """Iterations of the whole run, if config and log tell."""
        cfg = (self.starts[-1].config or {}).get('train_cfg')
        cfg = cfg if isinstance(cfg, dict) else {}
        epochs, length = cfg.get('max_epochs'), self.starts[-1].epoch_length
        if type(epochs) is int and length:
            return epochs * length
        return cfg['max_iters'] if type(cfg.get('max_iters')) is int else None

    def per_iteration(self, what: str) -> Optional[float]:
        """Epochs or images of an iteration.

        Args:
            what (str): 'epoch' or 'image'.

        Returns:
            float | None: None if it is not known, or was not always the same.
        """
        if what == 'epoch':
            values = {start.epoch_length for start in self.starts}
        else:
            values = {images_of_an_iteration(start) for start in self.starts}
        value = values.pop()
        if values or not value:
            return None
        return 1 / value if what == 'epoch' else value

    def median(self, name: str) -> Optional[float]:
        """Of all logged values; None if there are none."""
        curve = self.curves.get(name)
        return statistics.median(curve.values()) if curve else None


def images_of_an_iteration(start: Start) -> Optional[int]:
    """Batch size times processes; None if config or log do not tell."""
    config: Any = start.config or {}
    loader = config.get('train_dataloader')
    batch_size = loader.get('batch_size') if isinstance(loader, dict) else None
    processes = start.environment.get('GPU number', '')
    if type(batch_size) is not int or not processes.isdigit():
        return None
    return batch_size * int(processes)


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
        below = sorted(child for child in path.iterdir() if child.is_dir())
        if any(_TIMESTAMP.fullmatch(child.name) for child in below):
            return None
        if (path / 'vis_data').is_dir():
            return (f'{path} is one start of a run; give the work dir, '
                    f'{path.parent}')
        inside = [child for child in sorted(path.glob('**/vis_data'))]
    except OSError as error:
        return f'{path} cannot be read: {error.strerror}'
    runs = sorted({str(folder.parents[1]) for folder in inside})
    hint = f'; give those below it: {" ".join(runs[:10])}' if runs else ''
    return (f'{path} is no work dir of a run: it has no folder named after '
            f'the time of a start, such as 20260131_235959{hint}')


def short_names(paths: List[Path]) -> List[str]:
    """The shortest ends of the paths that differ from each other.

    Args:
        paths (list[Path]): Different folders.

    Returns:
        list[str]: ``a/dmae`` and ``b/dmae``, for example; for a single
        folder its name.
    """
    parts = [path.resolve().parts for path in paths]
    for length in range(1, max(map(len, parts)) + 1):
        names = [osp.join(*part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]
