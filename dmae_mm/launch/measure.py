"""What a few steps of a run tell about its memory, time and checkpoints."""
import contextlib
import os
import os.path as osp
import shutil
import sys
import time
from typing import Any, Dict, List

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner

from dmae_mm.engine.checkpointing import whole_files
from dmae_mm.engine.schedule_notes import schedule_notes
from dmae_mm.host import quietly, unwrapped_model

from .start import build_runner

# Steps that are timed, after the first, and how long they may take.
MAX_STEPS, MAX_SECONDS = 5, 15.0
MAX_SAMPLES = 32  # images that are read to see how fast that is


def measure_steps(cfg: Config, notes: List[str]) -> List[str]:
    """Start a run itself, and stop it after a few steps.

    Args:
        cfg (Config): Completed. Is changed.
        notes (list[str]): What is no problem is added here.

    Returns:
        list[str]: Lines on memory, time and checkpoints.

    Raises:
        Exception: Whatever the run raises.
    """
    # A step is an optimizer step here, so that all memory is in use.
    counts = cfg.optim_wrapper.pop('accumulative_counts', 1)
    hooks = cfg.setdefault('default_hooks', {})
    checkpoints = hooks.get('checkpoint') or {}
    hooks.pop('learning_rate', None)  # what it says is said here
    steps = FewStepsHook()
    runner = build_runner(cfg)
    runner.register_hook(steps, priority='LOWEST')
    with contextlib.suppress(Enough):
        runner.train()
    lines = [
        *memory(runner, steps.gradients),
        *duration(runner, min(steps.seconds)),
        *images(runner, counts),
        *checkpoint(runner, checkpoints.get('max_keep_ckpts', -1))
    ]
    notes += schedule_notes(runner)
    return lines


class Enough(Exception):
    """The few steps have been made."""


class FewStepsHook(Hook):
    """Times some steps and stops the run."""

    def __init__(self) -> None:
        self.seconds: List[float] = []
        self.gradients = 0  # bytes

    def before_train_iter(self, runner, batch_idx: int,
                          data_batch: Any = None) -> None:
        if not self.seconds:
            self.began = time.perf_counter()
            runner.optim_wrapper.optimizer.register_step_pre_hook(
                self._measure)
        self.start = _now()

    def _measure(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        self.gradients = sum(
            parameter.grad.nbytes for group in optimizer.param_groups
            for parameter in group['params'] if parameter.grad is not None)

    def after_train_iter(self, runner, batch_idx: int, data_batch: Any = None,
                         outputs: Any = None) -> None:
        """Count, and stop.

        Raises:
            Enough: After :data:`MAX_STEPS` or :data:`MAX_SECONDS`.
        """
        self.seconds.append(_now() - self.start)
        if (len(self.seconds) > MAX_STEPS
                or time.perf_counter() - self.began > MAX_SECONDS
                or runner.iter + 1 >= runner.max_iters):
            raise Enough


def memory(runner: Runner, gradients: int) -> List[str]:
    """Lines on what the parts of a run hold."""
    model = unwrapped_model(runner)
    sizes = dict(
        weights=_bytes(model.state_dict()),
        teacher=sum(
            _bytes(teacher.state_dict())
            for teacher in getattr(model, 'teachers', {}).values()))
    trained = dict(
        gradients=gradients,
        optimizer=_bytes(runner.optim_wrapper.optimizer.state_dict()))
    return [
        f'Memory: {_listed(sizes)},', f'    {_listed(trained)},',
        f'    peak {_peak()}.'
    ]


def _peak() -> str:
    if torch.cuda.is_available():
        total = torch.cuda.mem_get_info()[1]
        return (f'{megabytes(torch.cuda.max_memory_allocated())} of '
                f'{megabytes(total)} on the device')
    try:
        import resource
    except ImportError:  # Windows
        return 'not known: this system does not tell'
    # Kilobytes on Linux, bytes on macOS.
    unit = 1 if sys.platform == 'darwin' else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return f'{megabytes(peak)} of this process, all libraries included'


def duration(runner: Runner, step: float) -> List[str]:
    """Lines on how long the run will take, with the seconds of a step."""
    loader = runner.train_dataloader
    batch, workers = loader.batch_size or 1, loader.num_workers
    total, cores = runner.max_iters, os.cpu_count() or 1
    reading = _reading(loader.dataset, batch)
    each = max(step, reading / min(workers, cores)) if workers else (
        step + reading)
    return [
        f'Step: {step:.3g} s for {batch} images.',
        f'Reading: {reading:.3g} s for them in one process; '
        f'workers: {workers}, cores: {cores}.',
        f'Estimate, one process on this machine: {total} iterations x '
        f'{each:.3g} s = {_readable(total * each)},',
        '    without validation and checkpoints; started now, it ends about '
        f'{_clock(time.time() + total * each)}.'
    ]


def images(runner: Runner, counts: int) -> List[str]:
    """Lines on the images of an optimizer step, of several batches."""
    batch = runner.train_dataloader.batch_size or 1
    lines = [
        f'Images per optimizer step: {batch * counts} in each process '
        f'({batch} x {counts} accumulated).'
    ]
    scaling = runner.cfg.get('auto_scale_lr') or {}
    meant = scaling.get('base_batch_size', batch * counts)
    if meant != batch * counts:
        lines += [
            f'    The learning rate is meant for {meant:g} images per '
            'optimizer step, all',
            f'    processes together; here each brings {batch * counts}: '
            '--auto-scale-lr adapts it.'
        ]
    return lines


def _reading(dataset: Any, batch: int) -> float:
    """Seconds in which this process reads a batch."""
    if not hasattr(dataset, '__getitem__'):
        return 0.0  # a stream
    count = min(len(dataset), batch, MAX_SAMPLES)
    start = time.perf_counter()
    for index in range(count):
        dataset[index]
    return (time.perf_counter() - start) / count * batch


def checkpoint(runner: Runner, kept: int) -> List[str]:
    """Write, reload and compare one.

    Args:
        runner (Runner): After some steps.
        kept (int): How many the run will keep; 0 or less for all.

    Returns:
        list[str]: Lines about it.

    Raises:
        OSError: If the disk has no room for those of the run.
        ValueError: If other weights come back.
    """
    path = osp.join(runner.work_dir, 'check.pth')
    before = {
        name: value.clone()
        for name, value in unwrapped_model(runner).state_dict().items()
    }
    runner.save_checkpoint(
        runner.work_dir,
        'check.pth',
        by_epoch=False,
        backend_args=whole_files(runner.work_dir))
    size = osp.getsize(path)
    with quietly():
        runner.resume(path)
    for name, value in unwrapped_model(runner).state_dict().items():
        if not torch.equal(before[name], value):
            raise ValueError(f'a checkpoint was written, but {name} comes '
                             'back from it with other values')
    free = shutil.disk_usage(runner.work_dir).free
    # One more than are kept is on the disk while a new one is written.
    wanted = size * (kept + 1 if kept > 0 else 2)
    if free < wanted:
        raise OSError(f'the disk of the work dir has {megabytes(free)} free, '
                      f'but checkpoints need {megabytes(wanted)}')
    return [
        f'Checkpoint: {megabytes(size)}, written and reloaded; '
        f'{megabytes(free)} are free on its disk.'
    ]


def megabytes(size: float) -> str:
    """A size in bytes as people read it: '80.9 MB', '5.93 kB'."""
    unit, name = next(
        (unit, name) for unit, name in ((1e9, 'GB'), (1e6, 'MB'), (1e3, 'kB'))
        if size >= unit or unit == 1e3)
    return f'{size / unit:.3g} {name}'


def _now() -> float:
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
    return time.perf_counter()


def _bytes(state: Any) -> int:
    if isinstance(state, torch.Tensor):
        return state.nbytes
    if isinstance(state, dict):
        return sum(_bytes(value) for value in state.values())
    return 0


def _listed(sizes: Dict[str, int]) -> str:
    return ', '.join(f'{name} {megabytes(size)}'
                     for name, size in sizes.items() if size)


def _clock(moment: float) -> str:
    return time.strftime('%a %d %b, %H:%M', time.localtime(moment))


def _readable(seconds: float) -> str:
    for unit, length in (('days', 86400), ('hours', 3600), ('minutes', 60)):
        if seconds >= length:
            return f'{seconds / length:.1f} {unit}'
    return f'{seconds:.1f} seconds'
