"""What the benchmarks share: options, timing in turns, tables, JSON."""
import argparse
import json
import statistics
import time
from pathlib import Path
from typing import (Callable, Dict, Iterable, List, NamedTuple, Optional,
                    Sequence, TypeVar)

import torch
from dmae_mm.host import read_config
from tqdm import tqdm

CONFIG = 'configs/dmae/vit-s_dmae_in1k.py'  # S <- B
T = TypeVar('T')


def command_line(doc: str, **numbers: int) -> argparse.ArgumentParser:
    """Options of a benchmark: ``--json``, and numbers with their defaults."""
    parser = argparse.ArgumentParser(description=doc.split('\n')[0])
    for name, default in numbers.items():
        parser.add_argument(
            f'--{name.replace("_", "-")}',
            type=int,
            default=default,
            help='defaults to %(default)s')
    parser.add_argument('--json', help='also write the results to this file')
    return parser


def config_file(path: str) -> str:
    """Type of an argument that is a config: one that can be read."""
    try:
        read_config(path)
    except (FileNotFoundError, ValueError) as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return path


def add_device(parser: argparse.ArgumentParser, help: str = '') -> None:
    parser.add_argument(
        '--device',
        default='cuda' if torch.cuda.is_available() else 'cpu',
        help=f'{help}defaults to cuda where there is one')


class Taken(NamedTuple):
    """What a call took.

    Attributes:
        seconds (float): By the clock.
        cpu_seconds (float): That this process computed.
        peak_bytes (int, optional): The most that it allocated on a GPU, on
            top of what was there.
    """
    seconds: float
    cpu_seconds: float
    peak_bytes: Optional[int]


def taken_by(function: Callable[[], object], device: str = 'cpu') -> Taken:
    """Call a function, and wait until the device has done all."""
    cuda = device.startswith('cuda')
    if cuda:
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
    start, computed = time.perf_counter(), time.process_time()
    function()
    if cuda:
        torch.cuda.synchronize(device)
    return Taken(
        time.perf_counter() - start,
        time.process_time() - computed,
        torch.cuda.max_memory_allocated(device) - before if cuda else None)


def in_turns(tasks: Dict[str, Callable[[], T]],
             rounds: int,
             warm_up: int = 1,
             bar: bool = True) -> Dict[str, List[T]]:
    """Call all tasks, again and again.

    Args:
        tasks (dict[str, callable]): What to call, by name.
        rounds (int): How often.
        warm_up (int): Rounds before that do not count. Defaults to 1.
        bar (bool): Whether a terminal shows how far it is. Defaults to True.

    Returns:
        dict[str, list]: What each task returned in each round.
    """
    results: Dict[str, List[T]] = {name: [] for name in tasks}
    for turn in tqdm(
            range(-warm_up, rounds),
            'turns',
            leave=False,
            disable=None if bar else True):
        for name, task in tasks.items():
            result = task()
            if turn >= 0:
                results[name].append(result)
    return results


def ratios(ours: Iterable[float], theirs: Iterable[float]) -> Dict[str, float]:
    """Median, minimum and maximum of the ratios, turn by turn."""
    each = [our / their for our, their in zip(ours, theirs)]
    return dict(
        ratio=statistics.median(each),
        ratio_min=min(each),
        ratio_max=max(each))


def spread(row: dict, name: str = 'ratio') -> str:
    """Minimum and maximum of :func:`ratios`, for a table."""
    return f'{row[f"{name}_min"]:.2f} - {row[f"{name}_max"]:.2f}'


def show(rows: Sequence[Dict[str, object]]) -> None:
    """Print rows of equal keys as a table; the first column to the left."""
    cells = [list(rows[0])] + [
        ['' if value is None else str(value) for value in row.values()]
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(*cells)]
    for line in cells:
        first, *rest = (cell.rjust(width) if i else cell.ljust(width)
                        for i, (cell, width) in enumerate(zip(line, widths)))
        print('  '.join([first, *rest]).rstrip())


def write_json(path: Optional[str], **result: object) -> None:
    """Write results to a file, if one is wanted."""
    if path is not None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(json.dumps(result, indent=2) + '\n')
