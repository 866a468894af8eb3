"""What the studies over several seeds share: options, processes, tables."""
import argparse
import multiprocessing
import os
import platform
from concurrent.futures import ProcessPoolExecutor
from typing import Dict, Sequence

import dmae_mm
import mmengine
import mmpretrain
import numpy as np
import sklearn
import timm
import torch
from dmae_mm.host import ConfigOptions
from mmengine.config import Config
from scipy.stats import t as student_t

PACKAGES = (dmae_mm, torch, timm, mmengine, mmpretrain, sklearn)


def command_line(doc: str, seeds: int) -> argparse.ArgumentParser:
    """Options of a study; ``seeds`` is the default."""
    parser = argparse.ArgumentParser(description=doc.split('\n')[0])
    parser.add_argument(
        '--seeds', type=int, default=seeds, help='defaults to %(default)s')
    parser.add_argument(
        '--processes',
        type=int,
        default=len(os.sched_getaffinity(0)),
        help='trainings at a time, one thread each; defaults to the number '
        'of cores')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=ConfigOptions,
        default={},
        help='changes all trainings, e.g. train_cfg.max_epochs=1')
    return parser


def parse(parser: argparse.ArgumentParser,
          least_seeds: int = 1) -> argparse.Namespace:
    """Options of :func:`command_line`, or a message of what is wrong."""
    args = parser.parse_args()
    for name, least in (('seeds', least_seeds), ('processes', 1)):
        value = getattr(args, name)
        if value < least:
            why = 'an interval needs ' * (least > 1)
            parser.error(f'--{name} {value}: {why}at least {least}')
    return args


def prepare(cfg: Config, work_dir: str, seed: int) -> None:
    """Have a config run in a process of :func:`one_thread_each`."""
    cfg.work_dir = work_dir
    cfg.randomness.seed = seed
    # That of the study's own processes; there are no others.
    cfg.env_cfg.mp_cfg.mp_start_method = 'spawn'


def one_thread_each(processes: int) -> ProcessPoolExecutor:
    """A pool whose processes have a core each for themselves."""
    # NumPy and PyTorch read these when they are imported there.
    for variable in ('OMP_NUM_THREADS', 'MKL_NUM_THREADS',
                     'OPENBLAS_NUM_THREADS'):
        os.environ[variable] = '1'
    return ProcessPoolExecutor(
        processes, mp_context=multiprocessing.get_context('spawn'))


def versions() -> Dict[str, str]:
    """What the results depend on beside the configs."""
    return dict(
        Python=platform.python_version(),
        **{package.__name__: package.__version__
           for package in PACKAGES})


def listed(versions: Dict[str, str]) -> str:
    """Versions in a sentence."""
    return ', '.join(f'{name} {version}' for name, version in versions.items())


def half_width(values: np.ndarray) -> float:
    """Of the 95% interval of a mean, by Student's t."""
    n = len(values)
    return float(
        student_t.ppf(0.975, n - 1) * values.std(ddof=1) / np.sqrt(n))


def interval(values: np.ndarray, sign: str = '') -> str:
    """The mean and half of its interval; of one value, that."""
    mean = f'{values.mean():{sign}.2f}'
    return f'{mean} ± {half_width(values):.2f}' if len(values) > 1 else mean


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """In Markdown."""
    lines = [head, ['---'] * len(head), *rows]
    return '\n'.join(f'| {" | ".join(line)} |' for line in lines)
