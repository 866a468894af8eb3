"""Statistics of targets are measured before a training, and change no more."""
import copy
import random

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain import get_model
from mmpretrain.registry import HOOKS

from dmae_mm.datasets import SeededSampler
from dmae_mm.engine.hooks import calibration_hook
from dmae_mm.models import PHIStandardize
from tests.toys.runs import config, run, with_two_teachers

PHI = dict(type='PHIStandardize', num_images=10)


def single(photos, work_dir, **changes):
    """One teacher, one epoch of four steps."""
    cfg = config(photos, work_dir, 1)
    cfg.model.target = copy.deepcopy(PHI)
    cfg.custom_hooks.append(dict(type='CalibrationHook'))
    cfg.merge_from_dict(changes)
    return cfg


def unseeded(cfg):
    """As configs of mmpretrain are: crops follow what was drawn before."""
    cfg.train_dataloader.sampler.type = 'DefaultSampler'
    del cfg.train_dataloader.dataset.pipeline[0]
    cfg.custom_hooks = [
        hook for hook in cfg.custom_hooks if hook['type'] != 'ExactResumeHook'
    ]
    return cfg


@HOOKS.register_module(force=True)
class Listen(Hook):
    """Keeps what the teachers are asked and answer before the first step."""

    def before_run(self, runner):
        self.calls, listening = {}, [True]
        for name, teacher in runner.model.teachers.items():
            teacher.register_forward_hook(
                lambda module, args, output, name=name:
                self.calls.setdefault(name, []).append((args, output))
                if listening else None)
        self.listening = listening

    def before_train_epoch(self, runner):
        self.listening.clear()


def calls_of(runner):
    hook, = (h for h in runner.hooks if isinstance(h, Listen))
    return hook.calls


def test_statistics_are_those_of_the_first_images(photos, tmp_path):
    """10 of 16: of CLS and 4 random patches of each, by hand."""
    cfg = single(photos, tmp_path)
    cfg.custom_hooks.append(dict(type='Listen'))
    runner, _ = run(cfg)
    calls = calls_of(runner)['']
    assert [len(images) for (images, _), _ in calls] == [4, 4, 2]
    tokens = torch.cat([output[0] for _, output in calls])
    assert tokens.shape == (10, 5, 32)
    ids = torch.cat([ids for (_, ids), _ in calls])
    assert ids.shape == (10, 4) and len({tuple(row) for row in ids.tolist()
                                         }) > 1
    wanted = PHIStandardize(32)
    wanted.fit(tokens)
    target, = runner.model.distill_target
    assert target.is_fitted
    for name, value in wanted.state_dict().items():
        torch.testing.assert_close(target.state_dict()[name], value)
    flat = target(tokens, True).flatten(0, 1)
    torch.testing.assert_close(flat.var(dim=0), torch.ones(32))

    # The images of the first epoch in their crops.
    sampler = SeededSampler(runner.train_dataloader.dataset, seed=0)
    dataset = runner.train_dataloader.dataset
    first = torch.stack([
        dataset[index]['inputs'] for index, _ in zip(sampler, range(10))])
    seen = torch.cat([images for (images, _), _ in calls])
    mean = std = torch.full((3, 1, 1), 127.5)
    torch.testing.assert_close(seen, (first.float() - mean) / std)


@pytest.mark.parametrize('seeded', [True, False])
@pytest.mark.parametrize('num_workers', [
    0, pytest.param(2, marks=pytest.mark.slow)])
def test_the_training_goes_on_as_if_nothing_was_drawn(
        photos, tmp_path, seeded, num_workers):
    cfg = single(photos, tmp_path / 'a', **{
        'train_dataloader.num_workers': num_workers,
        'train_dataloader.persistent_workers': num_workers > 0})
    if not seeded:
        cfg = unseeded(cfg)
    runner, losses = run(cfg)
    target = runner.model.distill_target.state_dict()

    @HOOKS.register_module(force=True)
    class Fill(Hook):
        """In the place of a calibration."""

        def before_train(self, runner):
            runner.model.distill_target.load_state_dict(target)

    cfg.work_dir = str(tmp_path / 'b')
    cfg.custom_hooks[-1] = dict(type='Fill')
    other, wanted = run(cfg)
    assert losses == wanted and len(losses) == 4
    for name, tensor in other.model.state_dict().items():
        assert torch.equal(runner.model.state_dict()[name], tensor), name


def test_random_states_are_restored(photos, tmp_path):
    states = []

    @HOOKS.register_module(force=True)
    class States(Hook):
        priority = 'VERY_HIGH'

        def before_train(self, runner):
            states.append((random.getstate(),
                           np.random.get_state()[1].tolist(),
                           torch.get_rng_state().tolist()))

    @HOOKS.register_module(force=True)
    class Later(States):
        priority = 'VERY_LOW'

    cfg = single(photos, tmp_path)
    cfg.custom_hooks += [dict(type='States'), dict(type='Later')]
    run(cfg)
    assert states[0] == states[1]


def test_each_teacher_has_its_own(photos, tmp_path):
    """Numbers of images, and what is measured at all."""
    cfg = with_two_teachers(config(photos, tmp_path, 1))
    cfg.model.teachers.dino.target = dict(PHI, num_images=5)
    cfg.model.teachers.plain = copy.deepcopy(cfg.model.teachers.mae)
    cfg.model.teachers.plain.target = dict(type='Standardize')
    cfg.custom_hooks.append(dict(type='Listen'))
    runner, _ = run(cfg)
    assert {name: sum(len(images) for (images, _), _ in calls)
            for name, calls in calls_of(runner).items()} == dict(
                mae=13, dino=5)
    # One of eight seen, as in its training step; the first four count.
    dino = calls_of(runner)['dino']
    assert {ids.shape[1] for (_, ids), _ in dino} == {8}
    wanted = PHIStandardize(16)
    wanted.fit(torch.cat([output[0][:, :5] for _, output in dino]))
    torch.testing.assert_close(
        runner.model.distill_targets['dino'][0].mean, wanted.mean)
    # A pair of blocks has statistics of its own.
    first, second = runner.model.distill_targets['mae']
    assert not torch.equal(first.mean, second.mean)


def test_progress_and_an_estimate_are_logged(photos, tmp_path, monkeypatch,
                                             caplog):
    monkeypatch.setattr(calibration_hook, 'SECONDS', 0.0)
    cfg = with_two_teachers(config(photos, tmp_path, 1))
    cfg.log_level = 'INFO'
    lines = []
    cfg.experiment_name = str(tmp_path)
    runner = Runner.from_cfg(cfg)
    monkeypatch.setattr(runner.logger, 'info', lines.append)
    runner.train()
    lines = [line for line in lines if str(line).startswith('Calibration')]
    assert lines[0] == ('Calibration: the statistics of the teacher mae on 13 '
                        'images in each process.')
    assert lines[1].startswith('Calibration: 4 of 13 images, about ')
    assert lines[1].endswith(' s left.') and len(lines) == 5
    assert lines[-1].startswith('Calibration: done in ')


class TestLoadFrom:
    """Statistics of a checkpoint that is no resumed run's."""

    @pytest.fixture(scope='class')
    @staticmethod
    def before(photos, tmp_path_factory):
        cfg = single(photos, tmp_path_factory.mktemp('before'))
        cfg.train_dataloader.sampler.seed = 7  # other images first
        return cfg, run(cfg)[0].model.distill_target[0].state_dict()

    def next_run(self, before, photos, work_dir, **changes):
        cfg = single(photos, work_dir, **changes)
        cfg.load_from = f'{before[0].work_dir}/epoch_1.pth'
        cfg.custom_hooks += [dict(type='Listen'),
                             dict(type='EMAHook', momentum=0.1)]
        runner, _ = run(cfg)
        return runner, runner.model.distill_target[0].state_dict()

    def test_of_the_same_teacher_are_kept(self, before, photos, tmp_path):
        runner, ours = self.next_run(before, photos, tmp_path)
        assert calls_of(runner) == {}
        assert all(torch.equal(ours[name], before[1][name]) for name in ours)

    def test_of_another_teacher_are_measured_anew(self, before, photos,
                                                  tmp_path):
        runner, ours = self.next_run(
            before, photos, tmp_path, **{'model.aligned_layers': [(2, 2)]})
        assert calls_of(runner)
        assert not torch.equal(ours['mean'], before[1]['mean'])
        average, = (hook.ema_model.module for hook in runner.hooks
                    if type(hook).__name__ == 'EMAHook')
        for name, value in average.distill_target[0].state_dict().items():
            assert torch.equal(value, ours[name])


def test_the_checkpoint_is_a_model_of_the_zoo(photos, tmp_path, images):
    cfg = with_two_teachers(config(photos, tmp_path, 1))
    runner, _ = run(cfg)
    model = get_model(
        cfg, pretrained=str(tmp_path / 'epoch_1.pth'), device='cpu')
    for name, value in runner.model.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
    assert torch.equal(
        model.extract_feat(images)[0],
        runner.model.eval().extract_feat(images)[0])
    model.train()
    assert model.loss(images, None)['loss_align_mae_s2_t3'].isfinite()


@pytest.mark.parametrize('changes, message', [
    ({'model.target.num_images': 17},
     'target: num_images=17, but train_dataloader has 16 images'),
    ({'model.target.num_images': 6},
     'target: num_images=6 of 5 tokens give 30, but statistics of 32 '
     'channels need more .*at least 7'),
])
def test_too_few_images_are_refused(photos, tmp_path, changes, message):
    cfg = single(photos, tmp_path, **changes)
    with pytest.raises(ValueError, match=message):
        run(cfg)
    assert not list(tmp_path.glob('*.pth'))


def test_the_teacher_is_named(photos, tmp_path):
    cfg = with_two_teachers(config(photos, tmp_path, 1))
    cfg.model.teachers.mae.target.num_images = 99
    with pytest.raises(ValueError, match='^teachers.mae.target: num_images'):
        run(cfg)


def test_as_many_images_as_are_needed_are_enough(photos, tmp_path):
    runner, _ = run(single(photos, tmp_path, **{
        'model.target.num_images': 7}))
    assert runner.model.distill_target[0].is_fitted


def test_without_the_hook(photos, tmp_path):
    cfg = single(photos, tmp_path)
    cfg.custom_hooks.pop()
    with pytest.raises(
            RuntimeError,
            match=r"Add dict\(type='CalibrationHook'\) to custom_hooks"):
        run(cfg)


def test_samplers_that_cannot_be_started_twice_are_left_alone(photos,
                                                             tmp_path):
    """By iterations, MMEngine goes on with one endless sampler."""
    cfg = unseeded(single(photos, tmp_path / 'a'))
    cfg.train_dataloader.sampler.type = 'InfiniteSampler'
    cfg.train_cfg = dict(by_epoch=False, max_iters=2)
    cfg.param_scheduler = None
    cfg.default_hooks.checkpoint = dict(
        type='CheckpointHook', by_epoch=False, interval=2)
    seen = []

    @HOOKS.register_module(force=True)
    class Names(Hook):

        def after_train_iter(self, runner, batch_idx, data_batch, outputs):
            seen.append([s.img_path for s in data_batch['data_samples']])

    cfg.custom_hooks.append(dict(type='Names'))
    run(cfg)
    calibrated, seen[:] = seen.copy(), []
    cfg.model.target = None
    cfg.work_dir = str(tmp_path / 'b')
    run(cfg)
    assert calibrated == seen and len(seen) == 2
