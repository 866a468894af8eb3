"""When --check says that a schedule goes on after the training."""
from types import SimpleNamespace

import pytest
from mmengine.config import Config
from mmengine.runner import IterBasedTrainLoop

from dmae_mm.launch.schedule_notes import schedule_notes


def notes(schedule, loop=object):
    return schedule_notes(SimpleNamespace(
        cfg=Config(dict(param_scheduler=schedule)), max_iters=8, max_epochs=2,
        train_loop=loop.__new__(loop)))


@pytest.mark.parametrize('schedule, note', [
    (dict(type='CosineAnnealingLR', by_epoch=False, T_max=9),
     'ends at iteration 9, the training at 8: change what is too long among '
     'param_scheduler.T_max=9'),
    ([dict(type='LinearLR', by_epoch=False, end=3),
      dict(type='CosineAnnealingLR', begin=1, T_max=2)],
     'ends at epoch 3, the training at 2: change what is too long among '
     'param_scheduler.1.begin=1, param_scheduler.1.T_max=2'),
])
def test_longer_than_the_training(schedule, note):
    assert notes(schedule) == [f"the learning rate's schedule {note}"]


@pytest.mark.parametrize('schedule', [
    None,
    [dict(type='LinearLR', end=1), dict(type='CosineAnnealingLR', end=2)],
    dict(type='LinearLR', by_epoch=False, end=8),
    dict(type='ConstantLR', factor=1., end=10**9),  # as without one
    dict(type='MultiStepLR', milestones=[1]),
])
def test_as_long_or_shorter(schedule):
    assert notes(schedule) == []


def test_a_training_of_iterations_has_no_epochs():
    schedule = [dict(type='LinearLR', end=9),
                dict(type='PolyLR', by_epoch=False, end=9)]
    note, = notes(schedule, IterBasedTrainLoop)
    assert note.endswith('among param_scheduler.1.end=9')
