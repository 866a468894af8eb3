from typing import Iterator, Optional, Sized

import numpy as np
from mmpretrain.registry import DATA_SAMPLERS

from dmae_mm.options import reject_unknown_options

from ..seeded_sampler import SeededSampler
from ..seeds import SeededIndex


@DATA_SAMPLERS.register_module()
@reject_unknown_options
class ShardSampler(SeededSampler):
    """Random order that reads few shards at a time.

    Each epoch, the shards are put into a new order and the samples of each
    shard, too; then every sample moves back by up to ``window`` places at
    random. So about ``window`` samples are mixed at any time, and those
    shards that hold them are read. As in :class:`SeededSampler`, of which it
    is one, the order depends on the seed and the epoch only, the indices are
    ``SeededIndex``, and an epoch can start behind samples already used.

    Every sample is drawn once an epoch. If their number is not a multiple of
    the number of processes, fewer samples than processes are drawn twice, so
    that all processes have the same number of batches.

    Args:
        dataset (ShardDataset): The data set.
        window (int): Samples that are mixed. The more, the better the order
            and the more shards are read at a time, about
            ``window / samples of a shard + 2`` in each node. Defaults to
            16384.
        num_nodes (int): Parts of the data that are read apart from each
            other, each by ``processes / num_nodes`` processes of successive
            ranks. The number of machines, if shards come from a URL: each
            machine then fetches its part only. Defaults to 1.
        seed (int, optional): Seed of order and samples, the same in all
            processes. Defaults to None: the runner's.

    Raises:
        TypeError: If the data set has no shards.
        ValueError: If ``window`` is not positive, or ``num_nodes`` does not
            divide the number of processes.
    """

    def __init__(self,
                 dataset: Sized,
                 window: int = 16384,
                 num_nodes: int = 1,
                 seed: Optional[int] = None) -> None:
        if not hasattr(dataset, 'shard_sizes'):
            raise TypeError(
                f'ShardSampler needs a ShardDataset, not a '
                f'{type(dataset).__name__}: take SeededSampler.')
        super().__init__(dataset, seed=seed)
        if not (isinstance(window, int) and window > 0):
            raise ValueError(f'window={window!r} is not a positive integer.')
        if (not isinstance(num_nodes, int) or num_nodes < 1
                or self.world_size % num_nodes):
            raise ValueError(
                f'num_nodes={num_nodes!r} has to divide the number of '
                f'processes, {self.world_size}: set it to the number of '
                'machines, or to 1.')
        self.window = window
        self.num_nodes = num_nodes

    def __iter__(self) -> Iterator[SeededIndex]:
        return self.dataset.fetch_ahead(super().__iter__(),
                                        self.world_size // self.num_nodes)

    def _order(self) -> Iterator[int]:
        rng = np.random.default_rng((self.seed, self.epoch))
        order = shuffle_shards(self.dataset.shard_sizes, rng)
        # Nodes that read different shards. Neither the parts nor their order
        # depend on the number of processes.
        parts = [
            shuffle_window(part, self.window, rng)
            for part in np.array_split(order, self.num_nodes)
        ]
        local_size = self.world_size // self.num_nodes
        node, local_rank = divmod(self.rank, local_size)
        # Some samples are repeated where the number does not divide evenly.
        part = np.resize(parts[node], self.num_samples * local_size)
        return iter(part[local_rank::local_size].tolist())


def shuffle_shards(sizes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """All samples, shard by shard, in random order of both.

    Args:
        sizes (np.ndarray): Number of samples of each shard: (shards,).
        rng (np.random.Generator): Decides.

    Returns:
        np.ndarray: Indices of the samples: (samples,), int64.
    """
    first = np.concatenate([[0], np.cumsum(sizes)])
    return np.concatenate([
        first[shard] + rng.permutation(sizes[shard])
        for shard in rng.permutation(len(sizes))
    ])


def shuffle_window(order: np.ndarray, window: int,
                   rng: np.random.Generator) -> np.ndarray:
    """Let each element fall back by up to ``window`` places at random.

    Args:
        order (np.ndarray): Elements: (samples,).
        window (int): How far.
        rng (np.random.Generator): Decides.

    Returns:
        np.ndarray: The same elements. None is more than ``window`` places
        from where it was.
    """
    places = np.arange(len(order)) + rng.uniform(0, window, len(order))
    return order[np.argsort(places, kind='stable')]
