"""Whether the checkpoints of a run have room, before anything large is read.
"""
import errno
import os.path as osp
import shutil
from typing import Tuple

from mmengine.config import Config

from dmae_mm.files import CannotWrite
from dmae_mm.host import build, quietly, without_teachers
from dmae_mm.launch.measure import megabytes

BYTES = 4  # of a float32


def check_disk_space(cfg: Config) -> None:
    """Refuse a run whose checkpoints have no room on the disk.

    Args:
        cfg (Config): Completed, with a ``work_dir``.

    Raises:
        ValueError: If the student cannot be built.
        CannotWrite: If there is too little room. It tells how much is needed
            and what to do.
    """
    size, count = checkpoint_sizes(cfg)
    folder = osp.abspath(cfg.work_dir)
    while not osp.isdir(folder):
        folder = osp.dirname(folder)
    free = shutil.disk_usage(folder).free
    if size * count > free:
        raise CannotWrite(
            errno.ENOSPC,
            f'{count} checkpoints of about {megabytes(size)} need '
            f'{megabytes(size * count)}, and the disk of {cfg.work_dir} has '
            f'{megabytes(free)} free. Give --out on another disk, free some '
            'space, or keep fewer: --cfg-options '
            'default_hooks.checkpoint.max_keep_ckpts=1')


def checkpoint_sizes(cfg: Config) -> Tuple[int, int]:
    """How large a checkpoint will be, and how many will be there at a time.

    A checkpoint has the weights of the student and what the optimizer keeps
    of each: two numbers, as AdamW does, or one. Projectors are left out.

    Args:
        cfg (Config): Completed.

    Returns:
        tuple[int, int]: Bytes, and the number, with the one that is being
        written.
    """
    parameters = _parameters(cfg)
    optimizer = cfg.optim_wrapper.get('optimizer', {}).get('type', '')
    copies = 2 if str(optimizer).endswith('SGD') else 3
    copies += any(
        str(hook.get('type')).endswith('EMAHook')
        for hook in cfg.get('custom_hooks') or [])
    hook = cfg.get('default_hooks', {}).get('checkpoint') or {}
    kept, length = hook.get('max_keep_ckpts', -1), cfg.train_cfg.get(
        'max_epochs') or cfg.train_cfg.get('max_iters') or 1
    written = max(1, length // max(1, hook.get('interval', 1)))
    count = min(kept, written) if kept > 0 else written
    return parameters * BYTES * copies, count + 1


def _parameters(cfg: Config) -> int:
    """Of the student, with its decoder where it has one."""
    model = cfg.model.to_dict()
    with quietly():
        if model['type'] == 'FeatureDistiller':  # it is nothing untaught
            student = build(model['backbone'], 'The student')
        else:
            student = build(without_teachers(model), 'The student')
    return sum(parameter.numel() for parameter in student.parameters()
               if parameter.requires_grad)
