import itertools
from typing import Iterator

from mmengine.dataset import DefaultSampler
from mmpretrain.registry import DATA_SAMPLERS

from dmae_mm.options import reject_unknown_options

from .seeds import SeededIndex


@DATA_SAMPLERS.register_module()
@reject_unknown_options
class SeededSampler(DefaultSampler):
    """mmengine's ``DefaultSampler`` that can start inside an epoch.

    The order of the samples is that of ``DefaultSampler``. The indices are
    :class:`SeededIndex`, so that what the transforms draw for a sample
    depends on the run's seed, the epoch and the sample only: neither on the
    number of workers and processes, nor on where the run was interrupted.

    Args:
        dataset (Sized): The data set.
        shuffle (bool): Whether each epoch has an order of its own. Defaults
            to True.
        seed (int, optional): Seed of order and samples, the same in all
            processes. Defaults to None: the runner's.
        round_up (bool): Whether samples are repeated so that all processes
            have the same number. Defaults to True.
    """

    _skipped = 0  # samples used before

    def skip(self, num_samples: int) -> None:
        """Let the next iterator begin behind samples already used.

        Args:
            num_samples (int): Samples of this process.
        """
        self._skipped = num_samples

    def __iter__(self) -> Iterator[SeededIndex]:
        skipped, self._skipped = self._skipped, 0
        seed, epoch = self.seed, self.epoch
        return (SeededIndex(index, seed, epoch)
                for index in itertools.islice(self._order(), skipped, None))

    def _order(self) -> Iterator[int]:
        """The samples of this process in this epoch, all of them."""
        return super().__iter__()
