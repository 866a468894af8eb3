"""What differs from the checkpoint is applied or refused, never ignored."""
import copy

import pytest
import torch
from mmengine.hooks import EMAHook, Hook
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner

from dmae_mm.engine.resumed_options import ResumedOptions
from tests.toys.runs import config

COSINE = dict(type='CosineAnnealingLR', convert_to_iter_based=True)


class Record(Hook):
    """What the optimizer works with, in each step."""

    priority = 'LOWEST'

    def __init__(self, stop_after=None):
        self.stop_after, self.steps = stop_after, []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        groups = runner.optim_wrapper.param_groups
        self.steps.append([{
            key: group[key] for key in ('lr', 'betas', 'weight_decay', 'eps')
        } for group in groups])

    def after_train_epoch(self, runner):
        if runner.epoch + 1 == self.stop_after:
            runner.train_loop.stop_training = True

    def values(self, key):
        return [[group[key] for group in step] for step in self.steps]


def toy(photos, work_dir, epochs, *schedules, **changes):
    """Of 2 steps an epoch."""
    cfg = config(photos, work_dir, epochs)
    cfg.train_dataloader.batch_size = 8
    cfg.param_scheduler = copy.deepcopy(list(schedules)) or None
    cfg.optim_wrapper.paramwise_cfg = dict(norm_decay_mult=0.)
    cfg.optim_wrapper.optimizer.weight_decay = 0.05
    cfg.merge_from_dict(changes)
    return cfg


def run(cfg, resume=False, stop_after=None, hooks=()):
    cfg = copy.deepcopy(cfg)
    cfg.update(resume=resume, experiment_name=f'{cfg.work_dir}-{id(cfg)}')
    runner, record = Runner.from_cfg(cfg), Record(stop_after)
    for hook in (record, *hooks):
        runner.register_hook(hook)
    said = []
    runner.logger.warning = lambda text, *args, **kwargs: said.append(
        str(text))
    runner.train()
    record.said = '\n'.join(said)
    return record


def warm_up(epochs, **options):
    return dict(type='LinearLR', start_factor=0.1, by_epoch=True, end=epochs,
                **options)


ITER, EPOCH = dict(convert_to_iter_based=True), {}


@pytest.mark.parametrize('before, after', [
    # The cosine alone; its length follows from the training's, or is given.
    ([COSINE], [COSINE]),
    ([dict(COSINE, T_max=3)], [dict(COSINE, T_max=6)]),
    # With a warm-up, by iteration, by epoch, and mixed.
    ([warm_up(1, **ITER), dict(COSINE, begin=1)],
     [warm_up(2, **ITER), dict(COSINE, begin=2)]),
    ([warm_up(2), dict(type='CosineAnnealingLR', begin=2, T_max=3)],
     [warm_up(2), dict(type='CosineAnnealingLR', begin=2, T_max=4)]),
    ([warm_up(1, **ITER), dict(type='MultiStepLR', milestones=[1, 2])],
     [warm_up(2, **ITER), dict(type='MultiStepLR', milestones=[2, 4, 5])]),
    # Another kind, one more, one fewer, none before, none now.
    ([COSINE], [dict(type='PolyLR', power=2., convert_to_iter_based=True)]),
    ([COSINE], [warm_up(2, **ITER), dict(COSINE, begin=2)]),
    ([warm_up(2, **ITER), dict(COSINE, begin=2)], [COSINE]),
    ([], [COSINE]),
    ([COSINE], []),
    ([COSINE], [COSINE, dict(type='CosineAnnealingMomentum', eta_min=0.5,
                             convert_to_iter_based=True)]),
])
def test_another_schedule_goes_on_along_its_curve(photos, tmp_path, before,
                                                  after):
    wanted = run(toy(photos, tmp_path / 'fresh', 6, *after))
    run(toy(photos, tmp_path / 'run', 3, *before))
    resumed = run(toy(photos, tmp_path / 'run', 6, *after), resume=True)
    assert len(resumed.steps) == 6 and len(wanted.steps) == 12
    assert resumed.steps == wanted.steps[6:]  # bit for bit
    assert 'train_cfg.max_epochs: 3 -> 6' in resumed.said
    # And once more, now without a difference.
    again = run(toy(photos, tmp_path / 'run', 6, *after), resume=True)
    assert again.steps == [] and 'differs' not in again.said


@pytest.mark.parametrize('constructor', [
    'DefaultOptimWrapperConstructor', 'MergedGroupsConstructor'])
@pytest.mark.parametrize('schedules', [[COSINE], []])
@pytest.mark.parametrize('key, value', [
    ('lr', 2e-3), ('betas', (0.8, 0.9)), ('weight_decay', 0.1),
    ('eps', 1e-6)])
def test_other_numbers_of_the_optimizer(photos, tmp_path, key, value,
                                        schedules, constructor):
    """In each group, as in a run that has had them from the beginning."""
    cfg = toy(photos, tmp_path / 'run', 3, *schedules)
    cfg.optim_wrapper.constructor = constructor
    before = run(cfg, stop_after=1)
    cfg.optim_wrapper.optimizer[key] = value
    resumed = run(cfg, resume=True)
    cfg.work_dir = str(tmp_path / 'fresh')
    wanted = run(cfg)
    assert resumed.steps == wanted.steps[2:]
    assert resumed.values(key)[0] != before.values(key)[-1]
    old = dict(lr=1e-3, betas=(0.9, 0.95), weight_decay=0.05, eps=1e-8)[key]
    assert f'optim_wrapper.optimizer.{key}: {old} -> {value}' in resumed.said


def test_without_a_difference_nothing_is_said(photos, tmp_path):
    cfg = toy(photos, tmp_path / 'run', 2, COSINE)
    before = run(cfg, stop_after=1)
    resumed = run(cfg, resume=True)
    wanted = run(toy(photos, tmp_path / 'fresh', 2, COSINE))
    assert before.steps + resumed.steps == wanted.steps
    assert resumed.said == ''


@pytest.mark.parametrize('changes, said', [
    ({'optim_wrapper.optimizer.type': 'Adam'},
     "optim_wrapper.optimizer.type: 'AdamW' in the checkpoint, 'Adam' in"),
    ({'optim_wrapper.optimizer.amsgrad': True},
     'optim_wrapper.optimizer.amsgrad: False in the checkpoint, True in the '),
    ({'randomness.seed': 1},
     'randomness.seed: 0 in the checkpoint, 1 in the config'),
    ({'train_cfg.max_epochs': 1},
     'train_cfg.max_epochs=1 in the config, but the checkpoint is of epoch 2'),
    ({'train_cfg': dict(_delete_=True, type='IterBasedTrainLoop',
                        max_iters=9)},
     'train_cfg.max_epochs=4 in the checkpoint, train_cfg.max_iters=9'),
    ({'model.backbone.arch.embed_dims': 32, 'model.neck.embed_dim': 32},
     'backbone.cls_token is (1, 1, 24) in the checkpoint, (1, 1, 32) here'),
    ({'model.neck.decoder_depth': 1}, 'the optimizer trains'),
    ({'optim_wrapper.constructor': 'MergedGroupsConstructor',
      'optim_wrapper.paramwise_cfg.bias_decay_mult': 0.},
     "optim_wrapper.paramwise_cfg.bias_decay_mult: (none) in the checkpoint"),
    ({'train_dataloader.batch_size': 4},
     'An epoch had 2 batches in the checkpoint and has 4 here'),
    ({'custom_hooks': [dict(type='ExactResumeHook'),
                       dict(type='TeacherHook')]},
     'the checkpoint was written with an EMAHook'),
    ({'param_scheduler': [dict(type='ReduceOnPlateauLR', monitor='loss')]},
     'a schedule that follows a metric'),
])
def test_what_cannot_be_applied_is_refused(two_epochs, changes, said):
    cfg = copy.deepcopy(two_epochs)
    if 'bias_decay_mult' in str(changes):
        cfg.work_dir += '_merged'
    merge(cfg, changes)
    with pytest.raises(ValueError) as error:
        run(cfg, resume=True)
    assert said in str(error.value)


def merge(cfg, changes):
    changes = dict(changes)
    for key in ('param_scheduler', 'custom_hooks', 'train_cfg'):
        if key in changes:
            value = changes.pop(key)
            if isinstance(value, dict):
                value = {k: v for k, v in value.items() if k != '_delete_'}
            cfg[key] = value
    cfg.merge_from_dict(changes)


@pytest.fixture(scope='module')
def two_epochs(photos, tmp_path_factory):
    """A run that was stopped after two of four epochs, with an average."""
    folder = tmp_path_factory.mktemp('refused') / 'run'
    cfg = toy(photos, folder, 4, COSINE)
    cfg.custom_hooks.append(dict(type='EMAHook', momentum=0.1))
    run(cfg, stop_after=2)
    merged = copy.deepcopy(cfg)
    merged.work_dir += '_merged'
    merged.optim_wrapper.constructor = 'MergedGroupsConstructor'
    run(merged, stop_after=2)
    return cfg


def test_the_average_takes_its_momentum_from_the_config(photos, tmp_path):
    cfg = toy(photos, tmp_path, 3, COSINE)
    cfg.custom_hooks.append(dict(type='EMAHook', momentum=0.1))
    run(cfg, stop_after=1)
    cfg.custom_hooks[-1]['momentum'] = 0.2
    averages = []

    class Look(Hook):

        def before_train(self, runner):
            averages.extend(hook.ema_model.momentum for hook in runner.hooks
                            if isinstance(hook, EMAHook))

    resumed = run(cfg, resume=True, hooks=[Look()])
    assert averages == [0.2]
    assert 'custom_hooks[EMAHook].momentum: 0.1 -> 0.2' in resumed.said


@pytest.mark.parametrize('hooks', [[], ['ExactResumeHook']])
def test_a_stock_loop_and_its_hooks(photos, tmp_path, hooks):
    """AtomicCheckpointHook alone does it as well, and iterations count."""

    def made(iters):
        cfg = toy(photos, tmp_path / str(hooks), 1, dict(
            type='PolyLR', by_epoch=False, eta_min=1e-5, power=1.0))
        cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=iters)
        cfg.train_dataloader.sampler = dict(type='InfiniteSampler')
        del cfg.train_dataloader.dataset.pipeline[0]
        cfg.default_hooks.checkpoint.update(by_epoch=False, interval=3)
        cfg.custom_hooks = [dict(type=name) for name in hooks]
        return cfg

    run(made(3))
    resumed = run(made(6), resume=True)
    fresh = made(6)
    fresh.work_dir += '_fresh'
    assert resumed.steps == run(fresh).steps[3:]
    assert 'train_cfg.max_iters: 3 -> 6' in resumed.said


def test_the_loss_scale_begins_as_a_changed_config_says():
    """On the CPU, where MMEngine's AmpOptimWrapper refuses to be built."""

    class Scaled(OptimWrapper):

        def __init__(self, optimizer, static=None, **options):
            super().__init__(optimizer)
            self._scale_update_param = static
            self.loss_scaler = torch.amp.GradScaler('cpu', **options)

    parameter = torch.nn.Parameter(torch.zeros(2))

    def wrapper(**options):
        return Scaled(torch.optim.SGD([parameter], lr=1.), **options)

    for options, scale, interval in ((dict(), 1024., 2000),
                                     (dict(growth_interval=5), 65536., 5),
                                     (dict(static=8., init_scale=8.), 8.,
                                      2000)):
        built, resumed = wrapper(**options), object.__new__(ResumedOptions)
        resumed.changes = {}
        resumed.scalers = {'': built.loss_scaler.state_dict()}
        state = wrapper(init_scale=1024.).loss_scaler.state_dict()
        built.loss_scaler.load_state_dict(state)
        resumed._apply_scaler('', built, 'optim_wrapper')
        loaded = built.loss_scaler.state_dict()
        assert loaded['scale'] == scale, options
        assert loaded['growth_interval'] == interval
        assert bool(resumed.changes) == bool(options)
