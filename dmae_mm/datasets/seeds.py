"""Seeds that depend on what is drawn for, not on who draws or when."""
import random
from typing import Tuple

import numpy as np
import torch

# Keeps the seeds of different uses apart, whatever their numbers are.
_USES = ('sample', 'step', 'epoch', 'calibration')


def derive_seed(use: str, *numbers: int) -> int:
    """A seed of 64 bits for one use of random numbers.

    Args:
        use (str): 'sample', 'step', 'epoch' or 'calibration'.
        *numbers (int): What tells one from another, none negative: the run's
            seed first.

    Returns:
        int: Independent of that of any other use and numbers, by
        :class:`numpy.random.SeedSequence`.
    """
    sequence = np.random.SeedSequence(
        numbers, spawn_key=(_USES.index(use), ))
    return int(sequence.generate_state(1, np.uint64)[0])


class SeededIndex(int):
    """The index of a sample that also says how to seed its random draws.

    It is the index in all respects. mmengine's data sets put it into
    ``results['sample_idx']``, from where :class:`SeedSample` takes the seed;
    it stays with what ``ConcatDataset`` and ``RepeatDataset`` compute from
    it.

    Args:
        index (int): Index of the sample.
        run_seed (int): Seed of the run, the same in all processes.
        epoch (int): Number of the epoch.
        drawn (int, optional): The index as the sampler drew it, if ``index``
            was computed from it. Defaults to None: ``index``.
    """

    def __new__(cls,
                index: int,
                run_seed: int,
                epoch: int,
                drawn: int = None) -> 'SeededIndex':
        self = super().__new__(cls, index)
        self._numbers = (run_seed, epoch, index if drawn is None else drawn)
        return self

    @property
    def seed(self) -> int:
        """64 bits, a function of run seed, epoch and index.

        Computed where it is needed, in a worker, not by the sampler.
        """
        return derive_seed('sample', *self._numbers)

    def __reduce__(self) -> Tuple:
        return type(self), (int(self), *self._numbers)

    def __mod__(self, other: int) -> 'SeededIndex':
        return type(self)(int(self) % other, *self._numbers)

    def __sub__(self, other: int) -> 'SeededIndex':
        return type(self)(int(self) - other, *self._numbers)


def seed_sample(seed: int) -> None:
    """Seed the generators that transforms draw from: all on the CPU."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    # torch.manual_seed takes 50 times as long: it looks for accelerators.
    torch.default_generator.manual_seed(seed)


def seed_step(seed: int) -> None:
    """Seed all generators that a training step draws from."""
    seed_sample(seed)
    torch.manual_seed(seed)
