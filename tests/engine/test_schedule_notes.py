"""When a start says that a schedule does not fit the training."""
from types import SimpleNamespace

import pytest
from mmengine.config import Config
from mmengine.runner import IterBasedTrainLoop

from dmae_mm.engine.schedule_notes import schedule_notes


def notes(schedule, loop=object):
    return schedule_notes(SimpleNamespace(
        cfg=Config(dict(param_scheduler=schedule)), max_iters=8, max_epochs=2,
        train_loop=loop.__new__(loop)))


EPOCHS = ('; or give tools/train.py --epochs 2 instead of '
          'train_cfg.max_epochs=2')


@pytest.mark.parametrize('schedule, note', [
    (dict(type='CosineAnnealingLR', by_epoch=False, T_max=9),
     'ends at iteration 9, the training at 8: change what is too long among '
     'param_scheduler.T_max=9'),
    ([dict(type='LinearLR', by_epoch=False, end=3),
      dict(type='CosineAnnealingLR', begin=1, T_max=2)],
     'ends at epoch 3, the training at 2: change what is too long among '
     'param_scheduler.1.begin=1, param_scheduler.1.T_max=2' + EPOCHS),
    # 0.1 + 0.9 * 2 / 4
    ([dict(type='LinearLR', start_factor=0.1, end=4),
      dict(type='CosineAnnealingLR', begin=4, end=8)],
     'ends at epoch 8, the training at 2, inside of the warm-up, where it has '
     'reached 55% of its value: change what is too long among '
     'param_scheduler.0.end=4, param_scheduler.1.begin=4, '
     'param_scheduler.1.end=8' + EPOCHS),
    # Its rate would never be lowered.
    (dict(type='MultiStepLR', milestones=[1, 2]),
     'ends at epoch 3, the training at 2: change what is too long among '
     'param_scheduler.milestones=[1, 2]' + EPOCHS),
    # Half of a cosine.
    (dict(type='CosineAnnealingLR', end=2, T_max=4),
     'ends at epoch 4, the training at 2: change what is too long among '
     'param_scheduler.end=2, param_scheduler.T_max=4' + EPOCHS),
    (dict(type='CosineAnnealingLR', end=1),
     'ends at epoch 1, the training at 2: change what is too short among '
     'param_scheduler.end=1' + EPOCHS),
    (dict(type='PolyLR', by_epoch=False, end=7),
     'ends at iteration 7, the training at 8: change what is too short among '
     'param_scheduler.end=7'),
])
def test_of_another_length_than_the_training(schedule, note):
    assert notes(schedule) == [f"the learning rate's schedule {note}"]


@pytest.mark.parametrize('schedule', [
    None,
    [dict(type='LinearLR', end=1), dict(type='CosineAnnealingLR', end=2)],
    dict(type='LinearLR', by_epoch=False, end=8),
    dict(type='ConstantLR', factor=1., end=10**9),  # as without one
    dict(type='MultiStepLR', milestones=[1]),
    # A value for a while, then that of the optimizer.
    dict(type='LinearLR', start_factor=0.1, end=1),
    dict(type='CosineAnnealingLR'),  # without end
])
def test_as_long_or_a_warm_up(schedule):
    assert notes(schedule) == []


def test_a_training_of_iterations_has_no_epochs():
    schedule = [dict(type='LinearLR', end=9),
                dict(type='PolyLR', by_epoch=False, end=9)]
    note, = notes(schedule, IterBasedTrainLoop)
    assert note.endswith('among param_scheduler.1.end=9')
