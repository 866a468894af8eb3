"""A run that is interrupted anywhere goes on as if nothing had happened."""
import copy
import json
import os.path as osp
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from mmpretrain.registry import MODELS

from tests.toys.checkpoints import with_names_of_numpy_1
from tests.toys.resumable_runs import (BATCHES, assert_same_checkpoints,
                                       contents, ended_by, resumable, start)


@pytest.fixture(scope='module')
def undisturbed(photos, tmp_path_factory):  # noqa: F811
    """What runs without interruption do, by accumulation."""
    found = {}
    for counts in (1, 4):
        work_dir = tmp_path_factory.mktemp(f'undisturbed{counts}')
        _, found[counts] = start(resumable(photos, work_dir, counts=counts))
        found[counts].work_dir = work_dir
    return found


@pytest.mark.parametrize(
    'num_workers, counts, interval, crash_after, goes_on_at, file', [
        (0, 1, 2, 9, 8, 'mid_epoch.pth'),
        (2, 1, 2, 9, 8, 'mid_epoch.pth'),
        # Behind the last batch of an epoch, before its end.
        (0, 1, 3, 12, 12, 'mid_epoch.pth'),
        (0, 1, 0, 14, 12, 'epoch_2.pth'),
        # An epoch is no multiple of the accumulated batches: the checkpoint
        # of its end waits for the optimizer.
        (0, 4, 0, 10, 8, 'epoch_1.pth'),
        (2, 4, 3, 11, 8, 'epoch_1.pth'),
        (0, 4, 3, 17, 16, 'mid_epoch.pth'),
    ])
def test_goes_on_exactly(
        photos,  # noqa: F811
        tmp_path,
        undisturbed,
        num_workers,
        counts,
        interval,
        crash_after,
        goes_on_at,
        file):
    wanted = undisturbed[counts]
    cfg = resumable(
        photos, tmp_path, num_workers, counts, mid_epoch_interval=interval)
    crashed, before = start(cfg, crash_after=crash_after)
    assert ended_by(crashed) == 'Crash'
    assert before.steps == wanted.steps[:crash_after]
    last = (tmp_path / 'last_checkpoint').read_text()
    assert osp.basename(last) == file
    resumed, after = start(cfg, resume=True)
    assert [step['iter'] for step in after.steps] == list(
        range(goes_on_at, 3 * BATCHES))
    assert after.steps == wanted.steps[goes_on_at:]
    for ours, theirs in zip(
            after.images, wanted.images[goes_on_at:], strict=True):
        assert torch.equal(ours, theirs)
    assert after.epoch_ends == [
        end for end in wanted.epoch_ends if end[1] >= goes_on_at
        and (goes_on_at % BATCHES or file == 'mid_epoch.pth'
             or end[1] > goes_on_at)
    ]
    assert_same_checkpoints(tmp_path / 'epoch_3.pth',
                            wanted.work_dir / 'epoch_3.pth')
    assert sorted(path.name for path in tmp_path.glob('*.pth*')) == [
        'epoch_1.pth', 'epoch_2.pth', 'epoch_3.pth'
    ]


def test_goes_on_exactly_from_what_numpy_1_wrote(
        photos,  # noqa: F811
        tmp_path,
        undisturbed):
    cfg = resumable(photos, tmp_path, mid_epoch_interval=2)
    start(cfg, crash_after=9)
    with_names_of_numpy_1(tmp_path / 'mid_epoch.pth')
    _, after = start(cfg, resume=True)
    assert after.steps == undisturbed[1].steps[8:]
    assert_same_checkpoints(tmp_path / 'epoch_3.pth',
                            undisturbed[1].work_dir / 'epoch_3.pth')


@pytest.mark.parametrize('change, message', [
    (dict(train_cfg=dict(type='EpochBasedTrainLoop')),
     "set train_cfg=dict(type='ResumableTrainLoop'"),
    (dict(train_dataloader=dict(batch_size=4)),
     'it was 3 images a batch, all processes together, and is 4'),
    (dict(train_dataloader=dict(drop_last=True)),
     'it was 6 batches an epoch, and is 5'),
    (dict(train_dataloader=dict(sampler=dict(type='DefaultSampler'))),
     'which cannot skip samples'),
])
def test_what_would_not_go_on_exactly_is_refused(saved, change, message):
    cfg, _ = saved
    cfg = copy.deepcopy(cfg)
    cfg.merge_from_dict(change)
    cfg.default_hooks.checkpoint.mid_epoch_interval = 0
    if 'DefaultSampler' in str(change):
        del cfg.train_dataloader.dataset.pipeline[0]
    before = contents(cfg.work_dir)
    with pytest.raises(ValueError) as error:
        start(cfg, resume=True)
    assert 'after 2 of 6 batches' in str(error.value)
    assert message in str(error.value)
    assert contents(cfg.work_dir) == before


@pytest.fixture(scope='module')
def saved(photos, tmp_path_factory):  # noqa: F811
    """A run that was stopped inside its second epoch; what was seen of it."""
    cfg = resumable(photos, tmp_path_factory.mktemp('saved'))
    runner, watch = start(cfg, signal_in=BATCHES + 2)
    assert ended_by(runner) == 'Preempted'
    return cfg, watch


def test_a_signal_saves_and_stops(saved, undisturbed, tmp_path):
    cfg, before = saved
    steps = undisturbed[1].steps
    assert before.steps == steps[:BATCHES + 2]  # it stops at once
    noted = json.loads((Path(cfg.work_dir) / 'preempted.json').read_text())
    assert (noted['signal'], noted['iter']) == ('SIGTERM', BATCHES + 2)
    # A copy, for others need what is there.
    work_dir = tmp_path / 'copy'
    shutil.copytree(cfg.work_dir, work_dir)
    (work_dir / 'last_checkpoint').write_text(str(work_dir / 'mid_epoch.pth'))
    cfg = copy.deepcopy(cfg)
    cfg.work_dir = str(work_dir)
    runner, after = start(cfg, resume=True)
    assert after.steps == steps[BATCHES + 2:]
    assert_same_checkpoints(work_dir / 'epoch_3.pth',
                            undisturbed[1].work_dir / 'epoch_3.pth')
    assert not (work_dir / 'preempted.json').exists()
    assert not (work_dir / 'mid_epoch.pth').exists()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_useless_intervals_are_refused(photos, tmp_path):  # noqa: F811
    cfg = resumable(photos, tmp_path, mid_epoch_interval=2)
    cfg.train_cfg.type = 'EpochBasedTrainLoop'
    with pytest.raises(ValueError, match='mid_epoch_interval=2.*no use.*loop'):
        start(cfg)


def test_the_order_is_kept_without_a_seed_in_the_config(
        photos, tmp_path):  # noqa: F811
    """A run's own random seed is its checkpoint's."""
    cfg = resumable(photos, tmp_path / 'whole', mid_epoch_interval=4)
    cfg.randomness = dict(seed=None)
    _, before = start(cfg, crash_after=10)
    torch.rand(7), np.random.rand(7)
    _, after = start(cfg, resume=True)
    assert after.steps[:2] == before.steps[8:]


def test_an_end_without_optimizer_step_is_saved(photos, tmp_path):  # noqa: F811
    """Training is stopped early, at an epoch's end with gradients pending."""
    cfg = resumable(photos, tmp_path, counts=4)

    class Stop(Hook):

        def after_train_epoch(self, runner):
            runner.train_loop.stop_training = True

    start(cfg, hooks=[Stop()])
    meta = torch.load(tmp_path / 'epoch_1.pth', weights_only=False)['meta']
    assert (meta['epoch'], meta['iter']) == (1, BATCHES)


def test_the_teacher_may_go_while_its_student_learns(
        photos, tmp_path, monkeypatch):  # noqa: F811
    """It is in memory. To resume, it is needed again."""
    # yapf, which mmengine has print the config, takes 10 s for a long path.
    monkeypatch.chdir(tmp_path)
    teacher = Path('teacher.pth')
    cfg = resumable(photos, tmp_path / 'out', mid_epoch_interval=4)
    backbone = MODELS.build(cfg.model.teacher.backbone)
    backbone.init_weights()
    torch.save(backbone.state_dict(), teacher)
    cfg.model.teacher.update(checkpoint=str(teacher), allow_random=False)

    class Delete(Hook):

        def before_train_epoch(self, runner):
            if runner.epoch == 0:
                teacher.rename('gone.pth')

    runner, before = start(cfg, hooks=[Delete()], crash_after=BATCHES + 3)
    assert len(before.steps) == BATCHES + 3 and not teacher.exists()
    files = contents(cfg.work_dir)
    assert sorted(files) == ['epoch_1.pth', 'mid_epoch.pth']
    with pytest.raises(FileNotFoundError, match=str(teacher)):
        start(cfg, resume=True)
    assert contents(cfg.work_dir) == files
    Path('gone.pth').rename(teacher)
    _, after = start(cfg, resume=True)
    assert after.steps[0] == before.steps[8]
