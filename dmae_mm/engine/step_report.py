"""What a person is told about a step with a loss that is not finite."""
import os.path as osp
import shlex
from typing import TYPE_CHECKING, Any, Dict, List, Optional

import torch
from mmengine.dist import get_rank, get_world_size
from mmengine.runner import find_latest_checkpoint
from torch.distributed.tensor import DTensor

from dmae_mm.host import unwrapped_model

from .step_dump import file_names, plain, write_dump

if TYPE_CHECKING:
    from .watched_step import Step

# Names of images in a message. All are in the dump.
MAX_NAMES = 8


def describe_stop(runner, step: 'Step', skips: int, max_skips: int,
                  path: str) -> str:
    """Write the dump if the run stops, and say what happened.

    Args:
        runner: Of this process, which has had the bad loss.
        step (Step): The first bad one of those accumulated.
        skips (int): How often this has happened, this time included.
        max_skips (int): How often it may happen.
        path (str): Of the dump.

    Returns:
        str: The message.
    """
    bad = step.bad_terms()
    others = {
        name: value
        for name, value in step.terms.items() if name not in bad
    }
    rank = f', rank {get_rank()} of {get_world_size()}' if get_world_size(
    ) > 1 else ''
    lines = [
        f'{_values(bad)} in iteration {step.iter} (epoch {step.epoch}, '
        f'{step.where}{rank}).',
        f'The other values: {_values(others) or "none"}. Learning rate: '
        f'{_values(step.lr)}.',
        _images(file_names(step.batch))
    ]
    if skips <= max_skips:
        lines.append('This optimizer step is left out; weights and optimizer '
                     f'state are unchanged. Skipped so far: {skips}, '
                     f'max_skips={max_skips}.')
        return '\n'.join(lines)
    lines.append(
        'The training stops. Weights and optimizer state did not take in '
        'this step' + (f'; {skips - 1} were skipped before, '
                       f'max_skips={max_skips}.' if max_skips else '.'))
    lines.append(_dump(runner, step, path))
    last = find_latest_checkpoint(runner.work_dir)
    lines.append(f'Last checkpoint: {last or "none yet"}. If the images are '
                 'as they should be, a lower learning rate, clip_grad or '
                 'bfloat16 instead of float16 may help. default_hooks.'
                 f'runtime_info.max_skips={skips} leaves out {skips} such '
                 f'step{"s" * (skips > 1)}.')
    return '\n'.join(lines)


def _values(values: Dict[str, float]) -> str:
    return ', '.join(f'{name}={value:.6g}' for name, value in values.items())


def _images(names: List[str]) -> str:
    if not names:
        return ('The batch holds no file names: PackInputs puts img_path into '
                'data_samples unless its meta_keys say otherwise.')
    more = len(names) - MAX_NAMES
    return (f'Images: {", ".join(names[:MAX_NAMES])}' +
            (f' and {more} more, all named in the dump' if more > 0 else '') +
            '.')


def _dump(runner, step: 'Step', path: str) -> str:
    """Write it; that it cannot be written must not hide the error itself."""
    try:
        batch, note = plain(step.batch), ''
    except TypeError as error:
        batch, note = None, f' It is without the batch, because {error}.'
    weights = _weights(runner)
    if weights is None:
        note += ' It is without weights, because they are sharded.'
    try:
        size = write_dump(
            path,
            dict(
                iter=step.iter,
                epoch=step.epoch,
                rank=get_rank(),
                world_size=get_world_size(),
                seed=runner.seed,
                terms=step.terms,
                lr=step.lr,
                images=file_names(step.batch),
                batch=batch,
                random_state=step.random_state,
                teacher=_fingerprint(runner),
                checkpoint=find_latest_checkpoint(runner.work_dir),
                weights=weights))
    except OSError as error:
        return f'The step could not be dumped to {path}: {error}.'
    config = osp.join(
        runner.work_dir,
        osp.basename(runner.cfg.filename or f'{runner.timestamp}.py'))
    return (f'Dump: {path} ({size / 1e6:.1f} MB).{note} To repeat the step:\n'
            f'    python tools/replay_step.py {shlex.quote(config)} \\\n'
            f'        {shlex.quote(path)}')


def _weights(runner) -> Optional[Dict[str, torch.Tensor]]:
    """Those before the step; None if no process has them whole."""
    state = unwrapped_model(runner).state_dict()
    if any(isinstance(value, DTensor) for value in state.values()):
        return None
    return {name: value.detach().cpu() for name, value in state.items()}


def _fingerprint(runner) -> Any:
    teacher = getattr(unwrapped_model(runner), 'teacher', None)
    return None if teacher is None else teacher.fingerprint()
