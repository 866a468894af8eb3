"""A recipe for another number of epochs."""
import copy
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import PARAM_SCHEDULERS

from dmae_mm.launch import set_epochs
from dmae_mm.launch.recipe_length import leave_out_short_warm_up
from tests.toys.recipes import CONFIGS

BATCHES = 50  # of an epoch


def learning_rates(cfg):
    """Of each iteration, for a rate of 1."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 1.)
    schedules = [
        PARAM_SCHEDULERS.build(dict(schedule), default_args=dict(
            optimizer=optimizer, epoch_length=BATCHES))
        for schedule in copy.deepcopy(cfg.param_scheduler)]
    rates = []
    for _ in range(cfg.train_cfg.max_epochs):
        for _ in range(BATCHES):
            rates.append(optimizer.param_groups[0]['lr'])
            optimizer.step()
            for schedule in schedules:
                if not schedule.by_epoch:
                    schedule.step()
        for schedule in schedules:
            if schedule.by_epoch:
                schedule.step()
    return rates


@pytest.mark.parametrize('name, warm_up', [
    ('dmae/vit-s_dmae_in1k.py', 0.2),
    ('benchmarks/vit-s_finetune_in1k.py', 0.2),
    ('benchmarks/vit-s_linear_in1k.py', 1 / 9),
])
@pytest.mark.parametrize('epochs', [1, 3, 20, 200])
def test_the_same_curve_in_fewer_or_more_epochs(name, warm_up, epochs):
    cfg = Config.fromfile(CONFIGS / name)
    whole = learning_rates(cfg)
    set_epochs(cfg, epochs)
    assert cfg.train_cfg.max_epochs == epochs
    rates = learning_rates(cfg)
    peak = int(warm_up * epochs * BATCHES)
    assert rates[peak] == pytest.approx(1, abs=1e-3)
    assert max(rates) == pytest.approx(1)
    assert rates[0] == pytest.approx(1e-4)
    assert rates[-1] < rates[-2] < 1e-2
    # At a quarter, a half and three quarters of the training.
    for part in (1, 2, 3):
        assert rates[len(rates) * part // 4] == pytest.approx(
            whole[len(whole) * part // 4], abs=0.03)


def test_numbers():
    cfg = Config.fromfile(CONFIGS / 'dmae/vit-s_dmae_in1k.py')
    set_epochs(cfg, 3)
    first, second = cfg.param_scheduler
    assert (first.get('begin', 0), first.end) == (0, 0.6)
    assert (second.begin, second.end) == (0.6, 3)
    assert 'T_max' not in second  # the iterations from begin to end


@pytest.mark.parametrize('schedule, expected', [
    # Whole epochs stay whole, and counted in epochs.
    (dict(type='LinearLR', end=5), dict(end=1)),
    (dict(type='LinearLR', end=2), dict(end=0.4, convert_to_iter_based=True)),
    (dict(type='CosineAnnealingLR', T_max=10), dict(T_max=2)),
    (dict(type='CosineAnnealingLR', begin=5, end=10, T_max=5),
     dict(begin=1, end=2)),
    (dict(type='MultiStepLR', milestones=[2, 8], end=10),
     dict(milestones=[1, 2], end=2)),
    (dict(type='LinearLR', by_epoch=False, end=504), dict(end=101)),
    (dict(type='CosineAnnealingLR', begin=0, end=10**9), dict(end=10**9)),
])
def test_kinds_of_schedules(schedule, expected):
    cfg = Config(dict(train_cfg=dict(max_epochs=10),
                      param_scheduler=[dict(schedule)]))
    set_epochs(cfg, 2)
    expected = {**{key: schedule[key] for key in ('type', 'by_epoch')
                   if key in schedule}, **expected}
    given, = cfg.param_scheduler
    assert {key: value for key, value in given.items()
            if value or key != 'begin'} == expected


def test_after_max_epochs_alone_was_changed():
    """A schedule of 100 epochs in a training of 3 is made to fit."""
    cfg = Config.fromfile(CONFIGS / 'dmae/vit-s_dmae_in1k.py')
    other = copy.deepcopy(cfg)
    cfg.train_cfg.max_epochs = 3
    for each in (cfg, other):
        set_epochs(each, 3)
    assert cfg.param_scheduler == other.param_scheduler


@pytest.mark.parametrize('train_cfg, epochs, message', [
    (dict(max_epochs=9), 0, '0 epochs: a whole number of at least 1'),
    (dict(max_epochs=9), 1.5, '1.5 epochs: a whole number of at least 1'),
    (dict(type='IterBasedTrainLoop', max_iters=160), 2,
     'it counts iterations, train_cfg.max_iters=160. Change that by '
     '--cfg-options, and in proportion param_scheduler.end=20'),
])
def test_refusals(train_cfg, epochs, message):
    cfg = Config(dict(train_cfg=train_cfg,
                      param_scheduler=dict(type='LinearLR', end=20)))
    before = copy.deepcopy(cfg)
    with pytest.raises(ValueError) as error:
        set_epochs(cfg, epochs)
    assert message in str(error.value)
    assert cfg.to_dict() == before.to_dict()


@pytest.mark.parametrize('batches, left', [(4, 1), (5, 2), (6, 2)])
def test_a_warm_up_of_less_than_an_iteration(batches, left):
    """MMEngine would refuse to build it."""
    schedules = [
        dict(type='LinearLR', end=0.2, convert_to_iter_based=True),
        dict(type='CosineAnnealingLR', begin=0.2, end=1,
             convert_to_iter_based=True)]
    runner = SimpleNamespace(
        param_schedulers=schedules, logger=MMLogger.get_current_instance(),
        train_loop=SimpleNamespace(dataloader=range(batches)))
    leave_out_short_warm_up(runner)
    assert len(schedules) == left
    optimizer = torch.optim.SGD([torch.zeros(1)], 1.)
    for schedule in schedules:
        PARAM_SCHEDULERS.build(schedule, default_args=dict(
            optimizer=optimizer, epoch_length=batches))
