"""A data loader that gives no batch is said before anything is trained."""
import copy
import re
import shutil
import subprocess
import sys

import pytest
import torch
from mmengine.dataset import InfiniteSampler
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from dmae_mm.datasets.shards.write_shards import write_shards
from dmae_mm.engine import loaders
from dmae_mm.engine.loaders import check_not_empty
from tests.toys.runs import TRAIN, config, write_toy_run

COSINE = dict(type='LinearLR', end=1, convert_to_iter_based=True)


@pytest.fixture
def six(photos, tmp_path):
    """Six images in batches of eight, the last of which is dropped."""
    folder = tmp_path / 'six'
    folder.mkdir()
    for index in range(6):
        shutil.copy(f'{photos}/{index:02}.png', folder)
    cfg = config(str(folder), tmp_path / 'out', 1)
    cfg.train_dataloader.update(batch_size=8, drop_last=True)
    cfg.experiment_name = str(tmp_path)
    return cfg


SAID = ('train_dataloader gives no batch: 6 images in all, 6 of them in each '
        'of 1 process, batch_size=8, drop_last=True')


@pytest.mark.parametrize('loop', ['ResumableTrainLoop', 'EpochBasedTrainLoop'])
@pytest.mark.parametrize('hooks', ['ExactResumeHook', 'TeacherHook'])
def test_nothing_is_trained(six, tmp_path, loop, hooks):
    six.train_cfg.type = loop
    six.custom_hooks = [dict(type=hooks)]
    if loop == 'ResumableTrainLoop':
        six.param_scheduler = [COSINE]  # it would take the blame
    else:
        six.param_scheduler = None
    with pytest.raises(ValueError, match=re.escape(SAID)) as error:
        Runner.from_cfg(six).train()
    assert 'batch_size of at most 6' in str(error.value)
    assert not list((tmp_path / 'out').glob('*.pth'))


def test_validation(six, photos):
    six.train_dataloader.drop_last = False
    six.val_dataloader = copy.deepcopy(six.train_dataloader)
    six.val_dataloader.update(
        drop_last=True, sampler=dict(type='DefaultSampler', shuffle=False))
    del six.val_dataloader.dataset.pipeline[0]
    six.val_cfg, six.val_evaluator = dict(), dict(type='Accuracy')
    with pytest.raises(ValueError, match='val_dataloader gives no batch: 6 '):
        Runner.from_cfg(six).train()


def test_shards(six, tmp_path):
    root = tmp_path / 'shards'
    write_shards(str(tmp_path / 'six'), str(root))
    six.train_dataloader.dataset.update(
        type='ShardDataset', data_root=str(root))
    six.train_dataloader.sampler = dict(type='ShardSampler')
    six.train_dataloader.dataset.pipeline[1] = dict(type='LoadImageFromFile')
    with pytest.raises(ValueError, match=re.escape(SAID)):
        Runner.from_cfg(six).train()


@pytest.mark.parametrize('images, processes, batch, drop_last, each', [
    (6, 1, 6, True, None), (6, 1, 7, True, 6), (6, 1, 7, False, None),
    (9, 4, 3, True, None), (9, 4, 4, True, 3), (0, 1, 1, False, 0),
])
def test_what_is_empty(monkeypatch, images, processes, batch, drop_last,
                       each):
    """``each``: images of a process, rounded up; None: there is a batch."""
    from mmengine.dataset import DefaultSampler
    from mmengine.dataset import sampler as samplers
    monkeypatch.setattr(samplers, 'get_dist_info', lambda: (0, processes))
    monkeypatch.setattr(loaders, 'get_world_size', lambda: processes)
    data = list(range(images))
    loader = DataLoader(data, batch, drop_last=drop_last,
                        sampler=DefaultSampler(data, seed=0))
    if each is None:
        check_not_empty(loader, 'train_dataloader')
        assert len(list(loader)) > 0
        return
    with pytest.raises(ValueError) as error:
        check_not_empty(loader, 'train_dataloader')
    for part in (f'{images} images', f'{each} of them in each of {processes} ',
                 f'batch_size={batch}', f'drop_last={drop_last}'):
        assert part in str(error.value)


def test_an_infinite_sampler_fills_a_batch_by_repeating():
    for images in (3, 0):
        data = list(range(images))
        loader = DataLoader(data, 4, drop_last=True,
                            sampler=InfiniteSampler(data, seed=0))
        if images:
            check_not_empty(loader, 'train_dataloader')
            assert next(iter(loader)).shape == (4, )
        else:  # it would look for an index for ever
            with pytest.raises(ValueError, match='finds no images'):
                check_not_empty(loader, 'train_dataloader')


def test_streams_are_not_looked_into():

    class Stream(torch.utils.data.IterableDataset):

        def __iter__(self):
            raise AssertionError

    check_not_empty(DataLoader(Stream(), 4), 'train_dataloader')


@pytest.mark.slow
@pytest.mark.parametrize('check', [False, True])
def test_the_command_line_names_it(tmp_path, check):
    """With MMEngine's own loop, sampler and hooks, and a schedule."""
    path = write_toy_run(tmp_path / 'run')
    result = subprocess.run(
        [sys.executable, TRAIN, path, *['--check'] * check, '--cfg-options',
         'train_dataloader.batch_size=9', 'train_dataloader.drop_last=True',
         'param_scheduler.type=LinearLR',
         'param_scheduler.convert_to_iter_based=True'],
        cwd=tmp_path, capture_output=True, text=True)
    said = result.stdout + result.stderr
    assert result.returncode == 1, said
    assert 'gives no batch: 8 images' in said and 'batch_size=9' in said
    assert 'Traceback (most' not in said
    assert not list(tmp_path.rglob('*.pth'))
