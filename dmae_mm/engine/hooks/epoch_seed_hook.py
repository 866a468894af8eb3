import random

import numpy as np
import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import FUNCTIONS
from mmpretrain.registry import HOOKS

from dmae_mm.options import reject_unknown_options


@HOOKS.register_module()
@reject_unknown_options
class EpochSeedHook(Hook):
    """Seeds masks and augmentation anew for each epoch, from its number.

    A resumed run then draws what the uninterrupted run would have drawn:
    MMEngine restores the order of the data but no random state. The seed
    depends on the run's seed, the epoch and the rank, so that epochs and
    processes differ.

    Worker processes of the data loader follow only if they start anew each
    epoch (``persistent_workers=False``) with
    ``worker_init_fn=dict(type='keep_worker_seed')``, as the configs here
    have it.
    """

    def before_train_epoch(self, runner) -> None:
        """Seed Python, NumPy and PyTorch."""
        entropy = (runner.seed, runner.epoch, get_rank())
        seed = int(np.random.SeedSequence(entropy).generate_state(1)[0])
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)


@FUNCTIONS.register_module()
def keep_worker_seed(worker_id: int) -> None:
    """Leave a data loader's worker the seeds that PyTorch gave it.

    PyTorch derives them from the state that :class:`EpochSeedHook` set.
    MMEngine's own function would give workers the same seed in every epoch,
    and thus the same random crops in the same order.

    Args:
        worker_id (int): Not used.
    """
