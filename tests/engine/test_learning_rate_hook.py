"""What every start says of a learning rate that does not fit."""
import logging
from types import SimpleNamespace

import pytest
from mmengine.config import Config
from mmengine.runner import Runner

from dmae_mm.engine.hooks import LearningRateHook
from tests.toys.runs import config, run


def said(caplog, **changes):
    cfg = Config(dict(
        train_dataloader=dict(batch_size=2),
        optim_wrapper=dict(accumulative_counts=4, optimizer=dict(lr=0.1)),
        auto_scale_lr=dict(base_batch_size=16)))
    cfg.merge_from_dict(changes)
    runner = SimpleNamespace(
        cfg=cfg, logger=logging.getLogger('said'), max_iters=8, max_epochs=2,
        train_loop=None)
    caplog.clear()
    LearningRateHook().before_train(runner)
    return caplog.messages


def test_other_images_than_the_learning_rate_is_meant_for(caplog):
    assert said(caplog) == [
        'Note: the learning rate of 0.1 is meant for 16 images per optimizer '
        'step, here are 8 (2 x 1 process x 4 accumulated), for which 0.05 is '
        'in proportion: --auto-scale-lr takes it. If 0.1 was chosen for 8, '
        'say so by auto_scale_lr.base_batch_size=8']


@pytest.mark.parametrize('changes', [
    {'auto_scale_lr.base_batch_size': 8},
    {'optim_wrapper.accumulative_counts': 8},
    {'auto_scale_lr': None},
    {'optim_wrapper.optimizer.lr': None},
    # Scaled by MMEngine, which is right without accumulation.
    {'auto_scale_lr.enable': True, 'optim_wrapper.accumulative_counts': 1},
])
def test_nothing_to_say(changes, caplog):
    assert said(caplog, **changes) == []


def test_scaled_to_the_images_of_an_iteration(caplog):
    with pytest.raises(ValueError) as error:
        said(caplog, **{'auto_scale_lr.enable': True})
    assert 'accumulative_counts=4 batches' in str(error.value)
    assert 'optim_wrapper.optimizer.lr=0.05' in str(error.value)


def test_a_schedule_of_another_length(caplog):
    note, = said(caplog, auto_scale_lr=None, param_scheduler=[
        dict(type='CosineAnnealingLR', T_max=9)])
    assert note.startswith("Note: the learning rate's schedule ends at epoch "
                           '9, the training at 2')


def test_without_tools_train(photos, tmp_path):
    """A Runner of MMEngine refuses what it has scaled wrongly."""
    cfg = config(photos, tmp_path, 1)
    cfg.default_hooks.learning_rate = dict(type='LearningRateHook')
    cfg.optim_wrapper.accumulative_counts = 2
    cfg.auto_scale_lr = dict(base_batch_size=16, enable=True)
    with pytest.raises(ValueError, match='optimizer.lr=0.0005'):
        run(cfg)
    cfg.auto_scale_lr.enable = False
    cfg.auto_scale_lr.base_batch_size = 8
    runner, _ = run(cfg)
    assert isinstance(runner, Runner) and runner.iter == 4
