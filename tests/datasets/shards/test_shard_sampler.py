"""ShardSampler: every sample once, few shards at a time, from the seed."""
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dmae_mm.datasets import SeededIndex, SeededSampler, ShardSampler
from dmae_mm.datasets.shards.shard_sampler import (shuffle_shards,
                                                   shuffle_window)


class Shards:
    """What the sampler needs of a data set."""

    def __init__(self, sizes):
        self.shard_sizes = np.array(sizes)

    def __len__(self):
        return int(self.shard_sizes.sum())

    def fetch_ahead(self, indices, processes):
        return indices

    def shards_of(self, indices):
        ends = np.cumsum(self.shard_sizes)
        return np.searchsorted(ends, np.array(indices), side='right')


def sampler(shards, rank=0, world_size=1, seed=0, epoch=0, **options):
    with mock.patch('mmengine.dataset.sampler.get_dist_info',
                    return_value=(rank, world_size)):
        made = ShardSampler(shards, seed=seed, **options)
    made.set_epoch(epoch)
    return made


def draw(shards, world_size, **options):
    """The samples of each rank, in order: (ranks, samples)."""
    return np.array([
        list(sampler(shards, rank, world_size, **options))
        for rank in range(world_size)
    ])


SIZES = st.lists(st.integers(1, 9), min_size=1, max_size=9)


@settings(deadline=None, max_examples=50)
@given(SIZES, st.integers(1, 3), st.integers(1, 3), st.integers(1, 40),
       st.integers(0, 3))
def test_every_sample_is_drawn_once(sizes, num_nodes, node_size, window,
                                    epoch):
    shards, world_size = Shards(sizes), num_nodes * node_size
    if len(shards) < num_nodes:
        return
    drawn = draw(
        shards, world_size, num_nodes=num_nodes, window=window, epoch=epoch)
    # All ranks have the same number, or the last would wait forever.
    assert drawn.shape == (world_size, -(-len(shards) // world_size))
    counts = np.bincount(drawn.ravel(), minlength=len(shards))
    assert len(counts) == len(shards) and counts.min() >= 1
    repeated = drawn.size - len(shards)
    assert repeated < world_size
    if not repeated:
        assert counts.max() == 1


@pytest.mark.parametrize('num_nodes', [1, 2])
def test_steps_do_not_depend_on_the_number_of_processes(num_nodes):
    """A step of 24 images has the same ones in 2, 4, 6 and 8 processes."""
    shards = Shards([10] * 12)
    steps = []
    for world_size in (2, 4, 6, 8):
        drawn = draw(shards, world_size, num_nodes=num_nodes, window=30)
        steps.append(
            [sorted(step.ravel()) for step in np.hsplit(drawn, 5)])
    assert len(steps[0][0]) == 24
    assert steps[0] == steps[1] == steps[2] == steps[3]


def test_order_comes_from_seed_and_epoch():
    shards = Shards([7, 5, 8, 6])
    first = list(sampler(shards, seed=3, epoch=1))
    assert list(sampler(shards, seed=3, epoch=1)) == first
    assert list(sampler(shards, seed=3, epoch=2)) != first
    assert list(sampler(shards, seed=4, epoch=1)) != first


@pytest.mark.parametrize('world_size', [1, 2])
def test_skipping_goes_on_exactly_once(world_size):
    made = sampler(Shards([7, 5, 8]), 0, world_size, epoch=1)
    whole = list(made)
    made.skip(4)
    rest = list(made)
    assert rest == whole[4:]
    assert [index.seed for index in rest] == [
        index.seed for index in whole[4:]
    ]
    assert list(made) == whole  # the next epoch begins at its beginning


def test_it_seeds_samples_as_the_seeded_sampler_does():
    made = sampler(Shards([4, 4]), seed=5, epoch=2)
    assert isinstance(made, SeededSampler)
    assert all(type(index) is SeededIndex for index in made)
    assert {index: index.seed for index in made} == {
        index: SeededIndex(index, 5, 2).seed
        for index in range(8)
    }


def test_few_shards_are_read_at_a_time():
    shards = Shards([50] * 40)
    read = shards.shards_of(list(sampler(shards, window=200)))
    spans = [np.flatnonzero(read == shard) for shard in range(40)]
    open_at = sum(
        (np.arange(2000) >= span[0]) & (np.arange(2000) <= span[-1])
        for span in spans)
    assert open_at.max() <= 200 / 50 + 2
    # And they are mixed: neighbours mostly come from different shards.
    assert (read[1:] != read[:-1]).mean() > 0.7


def test_nodes_read_different_shards():
    shards = Shards([10] * 40)
    drawn = draw(shards, 4, num_nodes=2, window=60)
    nodes = [set(shards.shards_of(drawn[ranks].ravel()))
             for ranks in ([0, 1], [2, 3])]
    assert not nodes[0] & nodes[1]
    assert nodes[0] | nodes[1] == set(range(40))


def test_shuffling_moves_no_sample_further_than_the_window():
    rng = np.random.default_rng(0)
    order = shuffle_shards(np.array([5, 7, 3]), rng)
    assert sorted(order) == list(range(15))
    places = shuffle_window(np.arange(1000), 20, rng)
    assert sorted(places) == list(range(1000))
    moved = places - np.arange(1000)
    assert 10 < np.abs(moved).max() <= 20


@pytest.mark.parametrize('options, message', [
    (dict(window=0), 'window=0 is not a positive'),
    (dict(num_nodes=0), 'num_nodes=0 has to divide.*processes, 4'),
    (dict(num_nodes=3), 'num_nodes=3 has to divide.*processes, 4'),
])
def test_options_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        sampler(Shards([4]), 0, 4, **options)


def test_other_data_sets_are_refused():
    with pytest.raises(TypeError, match='needs a ShardDataset, not a list'):
        ShardSampler([1, 2], seed=0)
    with pytest.raises(TypeError, match='no option windows=3.*window'):
        ShardSampler(Shards([4]), windows=3)
