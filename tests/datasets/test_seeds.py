"""What a sample draws depends on run, epoch and sample, on nothing else."""
import pickle
import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmengine.dataset import ConcatDataset, DefaultSampler, RepeatDataset
from mmengine.runner import Runner
from mmpretrain.registry import DATASETS
from torch.utils.data import BatchSampler

from dmae_mm.datasets import SeededIndex, SeededSampler, SeedSample
from dmae_mm.datasets.seeds import derive_seed
from dmae_mm.engine.resuming import check_seeding

NUMBERS = st.integers(0, 2**31)


@given(NUMBERS, NUMBERS, NUMBERS)
def test_an_index_is_an_index_that_keeps_its_seed(index, run_seed, epoch):
    seeded = SeededIndex(index, run_seed, epoch)
    assert seeded == index and hash(seeded) == hash(index)
    assert 0 <= seeded.seed < 2**64
    for other in (pickle.loads(pickle.dumps(seeded)), seeded % 1000,
                  seeded - 3):
        assert isinstance(other, SeededIndex) and other.seed == seeded.seed
    assert (int(seeded % 1000), int(seeded - 3)) == (index % 1000, index - 3)
    assert type(seeded + 1) is int  # another sample


def test_seeds_differ_in_each_number_and_use():
    seeds = {
        derive_seed(use, *numbers)
        for use in ('sample', 'step', 'epoch')
        for numbers in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))
    }
    assert len(seeds) == 12
    assert SeededIndex(5, 7, 3).seed == derive_seed('sample', 7, 3, 5)


@pytest.mark.parametrize('shuffle', [True, False])
def test_the_sampler_draws_what_mmengines_does(shuffle):
    data = list(range(11))
    ours, theirs = (
        kind(data, shuffle=shuffle, seed=3)
        for kind in (SeededSampler, DefaultSampler))
    for epoch in (0, 4):
        ours.set_epoch(epoch)
        theirs.set_epoch(epoch)
        drawn = list(ours)
        assert drawn == list(theirs)
        assert [index.seed for index in drawn] == [
            derive_seed('sample', 3, epoch, index) for index in drawn
        ]


@given(st.integers(1, 30), st.integers(1, 7), st.data())
def test_skipping_leaves_the_rest_once(length, batch_size, data):
    sampler = SeededSampler(range(length), seed=1)
    batches = BatchSampler(sampler, batch_size, drop_last=False)
    whole = list(batches)
    done = data.draw(st.integers(0, len(whole)))
    sampler.skip(done * batch_size)
    assert list(batches) == whole[done:]
    assert list(batches) == whole
    assert len(sampler) == length


def test_transforms_draw_by_the_sample():
    draw = SeedSample()

    def drawn(index):
        draw(dict(sample_idx=index))
        return random.random(), np.random.rand(), torch.rand(()).item()

    first = drawn(SeededIndex(3, 0, 1))
    other = drawn(SeededIndex(3, 0, 2))
    assert not set(first) & set(other)
    assert drawn(SeededIndex(3, 0, 1)) == first
    # Without a seed, as a replacement has none, the draws go on.
    draw(dict(sample_idx=SeededIndex(3, 0, 1)))
    assert drawn(3) == first


class Loop:

    def __init__(self, dataset, sampler):
        self.train_loop = self
        self.dataloader = Runner.build_dataloader(
            dict(
                dataset=dataset,
                sampler=dict(type=sampler, shuffle=True),
                batch_size=2,
                num_workers=0),
            seed=0)


def folder(photos, *pipeline, **options):
    return DATASETS.build(
        dict(
            type='CustomDataset',
            data_root=photos,
            with_label=False,
            pipeline=[*pipeline, dict(type='LoadImageFromFile')],
            **options))


@pytest.fixture
def photos(tmp_path):
    import cv2
    for name in 'abc':
        cv2.imwrite(str(tmp_path / f'{name}.png'), np.zeros((8, 8, 3)))
    return str(tmp_path)


SEEDS = dict(type='SeedSample')
SEEDED = 'mmpretrain.SeededSampler'


@pytest.mark.parametrize('wrap', [
    lambda data: data,
    lambda data: RepeatDataset(data, 3),
    lambda data: ConcatDataset([data, data]),
])
def test_data_sets_hand_the_seed_on(photos, wrap):
    loop = Loop(wrap(folder(photos, SEEDS)), SEEDED)
    check_seeding(loop)
    dataset, sampler = loop.dataloader.dataset, loop.dataloader.sampler
    for index in sampler:
        assert dataset[index]['sample_idx'].seed == index.seed
    assert {len(list(sampler))} == {len(dataset)}


@pytest.mark.parametrize('sampler, pipeline, message', [
    ('DefaultSampler', [SEEDS], "sampler.type='SeededSampler'"),
    (SEEDED, [], "dict(type='SeedSample') is not first"),
])
def test_what_does_not_belong_together_is_refused(photos, sampler, pipeline,
                                                  message):
    with pytest.raises(ValueError) as error:
        check_seeding(Loop(folder(photos, *pipeline), sampler))
    assert message in str(error.value)


def test_a_data_set_that_loses_seeds_is_refused(photos):
    dataset = folder(photos, SEEDS)
    get = dataset.get_data_info
    dataset.get_data_info = lambda index: get(int(index))
    with pytest.raises(ValueError, match='CustomDataset loses the seed'):
        check_seeding(Loop(dataset, SEEDED))


def test_stock_parts_are_left_alone(photos):
    check_seeding(Loop(folder(photos), 'DefaultSampler'))
