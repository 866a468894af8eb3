import copy

import pytest
from mmengine.config import Config

from dmae_mm.host import read_config
from dmae_mm.workflow.machine import Machine
from dmae_mm.workflow.schedule_choice import choose_schedule
from tests.toys.models import ROOT

BASE = ROOT / 'configs' / '_base_'
RECIPE = [read_config(str(BASE / name)) for name in (
    'schedules/features_100e.py', 'datasets/image_folder.py',
    'default_runtime.py')]


def plan_and_reasons(num_images=1000,
                     machine=Machine(False, False, 16., 4),
                     size=224, learnt=10_000_000, frozen=0, epochs=None,
                     quick=False):
    cfg = Config()
    for part in RECIPE:
        for key, section in copy.deepcopy(part).items():
            cfg[key] = section
    return cfg, choose_schedule(cfg, num_images, epochs, quick, machine, size,
                                learnt, frozen)


def plan(*args, **options):
    return plan_and_reasons(*args, **options)[0]


@pytest.mark.parametrize('num_images, steps', [
    (1000, '1,600'),  # 32 batches of 32 an epoch, 2 for a step
    (10**7, '976,563')])  # 312,500 an epoch, 32 for a step: 976,562.5
def test_steps_are_counted(num_images, steps):
    _, reasons = plan_and_reasons(num_images)
    assert f'{steps} optimizer steps in all' in reasons


def test_a_small_step_may_learn_faster():
    """2.5e-4 * 1024 / 256 is the rate for 1024; a step of 64 has 1/16."""
    _, reasons = plan_and_reasons(1000)
    root, = (line for line in reasons if 'square root' in line)
    assert root.endswith('--cfg-options optim_wrapper.optimizer.lr=0.00025')
    _, reasons = plan_and_reasons(10_239)  # 512 of 1024
    assert not any('square root' in line for line in reasons)


@pytest.mark.parametrize('gpu, interval', [(False, 4), (True, 20)])
def test_checkpoints_are_minutes_apart(gpu, interval):
    """100 iterations are 3.1 epochs of 32 batches; 500 are 31 of 16, but a
    fifth of the training is 20."""
    cfg = plan(1000, Machine(gpu, gpu, 16., 4))
    assert cfg.default_hooks.checkpoint.interval == interval


@pytest.mark.parametrize('gpu, cores, workers', [
    (False, 1, 0), (False, 2, 1), (False, 16, 4), (True, 1, 0), (True, 4, 3),
    (True, 64, 8)])
def test_workers(gpu, cores, workers):
    loader = plan(machine=Machine(gpu, gpu, 16., cores)).train_dataloader
    assert loader.num_workers == workers
    assert loader.persistent_workers is (workers > 0)


@pytest.mark.parametrize('num_images, left_out', [(81, True), (82, False)])
def test_a_rest_of_one_image_is_left_out(num_images, left_out):
    loader = plan(num_images).train_dataloader
    assert (loader.batch_size, loader.drop_last) == (8, left_out)


@pytest.mark.parametrize('num_images, step', [
    (8, 8), (159, 8), (160, 16), (1000, 64), (10_239, 512), (10**7, 1024)])
def test_images_of_a_step(num_images, step):
    cfg = plan(num_images)
    assert (cfg.train_dataloader.batch_size *
            cfg.optim_wrapper.accumulative_counts) == step
    # 2.5e-4 for 256 images.
    assert cfg.optim_wrapper.optimizer.lr == pytest.approx(
        2.5e-4 * step / 256)


@pytest.mark.parametrize('memory, size, learnt, frozen, at_once', [
    (24., 224, 10e6, 0, 128),  # 21.6 - 0.15 GiB x 8 = 171
    (24., 448, 10e6, 0, 32),  # a fourth: 42
    (24., 224, 172e6, 0, 64),  # 21.6 - 2.6 GiB x 8 / 2 = 76
    (24., 224, 10e6, 3e9, 64),  # 21.6 - 0.15 - 11.2 GiB x 8 = 82
    (4., 224, 10e6, 3e9, 8)])  # less than nothing
def test_images_at_once_on_a_gpu(memory, size, learnt, frozen, at_once):
    cfg = plan(10**7, Machine(True, True, memory, 8), size, learnt, frozen)
    assert cfg.train_dataloader.batch_size == at_once
    assert cfg.optim_wrapper.accumulative_counts == 1024 // at_once


@pytest.mark.parametrize('gpu, bfloat16, kind, dtype', [
    (True, True, 'AmpOptimWrapper', 'bfloat16'),
    (True, False, 'AmpOptimWrapper', None),
    (False, False, 'OptimWrapper', None)])
def test_precision(gpu, bfloat16, kind, dtype):
    cfg = plan(machine=Machine(gpu, bfloat16, 16., 4))
    assert cfg.optim_wrapper.type == kind
    assert cfg.optim_wrapper.get('dtype') == dtype
    assert 'launcher' not in cfg


@pytest.mark.parametrize('epochs, quick, length, warm_up', [
    (None, False, 100, 5), (None, True, 3, .15), (40, False, 40, 2),
    (1, True, 1, .05)])
def test_epochs(epochs, quick, length, warm_up):
    cfg = plan(epochs=epochs, quick=quick)
    assert cfg.train_cfg.max_epochs == length
    assert cfg.param_scheduler[0].end == pytest.approx(warm_up)
    assert cfg.param_scheduler[1].end == length


def test_this_machine():
    machine = Machine.here()
    assert machine.cores >= 1 and machine.memory > 0
