"""A loss that is not finite: stopped at once, without a trace, repeatable."""
import json
import os
import os.path as osp
import resource
import socket

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch.utils._python_dispatch import TorchDispatchMode

from dmae_mm.engine.hooks import finite_loss_hook
from dmae_mm.engine.step_dump import read_dump
from tests.toys.planted_nan import equal, planted, stop_in_sixth, train
from tests.toys.runs import config


@pytest.fixture(scope='module')
def stopped(photos, tmp_path_factory):  # noqa: F811
    return stop_in_sixth(photos, tmp_path_factory.mktemp('stopped'))

def test_the_message_says_all(stopped):
    work_dir, runner, watch, message = stopped
    dump = work_dir / 'nonfinite_iter_6_rank_0.pth'
    assert ('loss_recon=nan, loss_align_s2_t3=nan in iteration 6 (epoch 2, '
            'batch 2 of 4)') in message
    lr = runner.message_hub.get_scalar('train/lr').current()
    assert 0 < lr < 1e-3
    assert f'Learning rate: lr={lr:.6g}' in message
    for name in ('04', '05', '06', '07'):
        assert f'{name}.png' in message
    assert f'Dump: {dump} (' in message
    assert f'Last checkpoint: {work_dir}/epoch_1.pth' in message
    assert 'python tools/replay_step.py' in message
    assert not list(work_dir.glob('.writing*'))


def test_the_step_leaves_no_trace(stopped):
    work_dir, runner, watch, message = stopped
    assert len(watch.losses) == 5 and len(watch.states) == 7
    assert equal(watch.states[5], watch.states[6])
    assert not equal(watch.states[4], watch.states[5])
    assert sorted(path.name for path in work_dir.glob('epoch_*')) == [
        'epoch_1.pth']


def test_a_full_disk_does_not_hide_the_error(photos, tmp_path,  # noqa: F811
                                             monkeypatch):
    cfg = planted(photos, tmp_path, ['00.png'], 1)
    save, limits = torch.save, resource.getrlimit(resource.RLIMIT_FSIZE)

    def full(content, path, *args, **kwargs):
        if 'random_state' in content:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
        save(content, path, *args, **kwargs)

    monkeypatch.setattr(torch, 'save', full)
    try:
        _, _, message = train(cfg, stops=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert 'loss_recon=nan' in message
    path = tmp_path / 'nonfinite_iter_1_rank_0.pth'
    assert (f'The step could not be dumped to {path}: {path} cannot be '
            'written: File too large. ') in message
    assert 'bytes are free' in message
    assert not list(tmp_path.glob('nonfinite*'))
    assert not list(tmp_path.glob('.writing*'))


def test_bad_steps_are_skipped_and_counted(photos, tmp_path):  # noqa: F811
    """Of accumulated batches, one bad one spoils the step, not the next.

    In each epoch of 4 batches, 2 a step, the second step is bad.
    """
    cfg = planted(photos, tmp_path, ['09.png'], 1, max_skips=2)
    cfg.optim_wrapper.accumulative_counts = 2
    _, watch, _ = train(cfg)
    states = watch.states
    assert np.isnan(watch.losses[2]['loss'])
    assert np.isfinite(watch.losses[3]['loss'])
    assert not equal(states[1], states[2])  # the good step
    assert equal(states[2], states[3]) and equal(states[3], states[4])
    # Resumed, the count goes on: one more in epoch 2, too many in epoch 3.
    _, watch, message = train(
        cfg, stops=True, resume=True, train_cfg=dict(max_epochs=4))
    assert len(watch.losses) == 7
    assert 'in iteration 11 (epoch 3, batch 3 of 4)' in message
    assert '2 were skipped before, max_skips=2' in message
    assert not equal(watch.states[0], watch.states[2])


def delayed(values):
    """A copy that has arrived only when somebody waits for it."""
    arrived = torch.full_like(values, 12345.0)

    class Event:

        def synchronize(self):
            arrived.copy_(values)

    return arrived, Event()


def logged(work_dir):
    with open(next(work_dir.glob('*/vis_data/scalars.json'))) as file:
        lines = [json.loads(line) for line in file]
    times = 'time', 'data_time'
    return [[(key, value) for key, value in line.items() if key not in times]
            for line in lines]


@pytest.mark.parametrize('interval', [1, 3])
def test_the_log_is_the_stock_one(photos, tmp_path, interval,  # noqa: F811
                                  monkeypatch):
    """Although, as on a GPU, losses arrive an iteration later."""
    monkeypatch.setattr(finite_loss_hook, 'copy_to_host', delayed)
    found, states = [], []
    for name in ('RuntimeInfoHook', 'FiniteLossHook'):
        cfg = config(photos, tmp_path / name, 2)
        cfg.train_dataloader.batch_size = 2
        cfg.default_hooks.runtime_info = dict(type=name)
        cfg.default_hooks.logger.interval = interval
        cfg.default_hooks.checkpoint.update(by_epoch=False, interval=5)
        runner, watch, _ = train(cfg)
        states.append(watch.states[-1])
        hub = torch.load(
            tmp_path / name / 'iter_5.pth', weights_only=False)['message_hub']
        found.append([
            logged(tmp_path / name), watch.losses,
            {key: (list(value.data[0]), list(value.data[1]))
             for key, value in hub['log_scalars'].items()
             if 'loss' in key}
        ])
    assert len(found[0][0]) == (16 if interval == 1 else 4)
    assert found[0] == found[1]
    assert equal(*states)


def test_the_device_decides(photos, tmp_path, monkeypatch):  # noqa: F811
    """As on a GPU: the host hears of it a step later, the weights do not."""
    monkeypatch.setattr(finite_loss_hook, 'copy_to_host', delayed)
    monkeypatch.setattr(
        finite_loss_hook, '_decides_on_device',
        lambda optimizer: optimizer._step_supports_amp_scaling)
    cfg = planted(photos, tmp_path, ['05.png', '13.png'], 2, max_skips=1)
    cfg.optim_wrapper.optimizer.fused = True
    cfg.default_hooks.logger.interval = 100
    # Batch 2 is skipped; with batch 4, which ends the epoch, the run stops.
    runner, watch, message = train(cfg, stops=True)
    states = watch.states
    assert equal(states[1], states[2]) and equal(states[3], states[4])
    assert not equal(states[2], states[3])
    assert 'in iteration 4 (' in message and len(watch.losses) == 3
    assert not hasattr(runner.optim_wrapper.optimizer, 'found_inf')

    # In the midst of an epoch, one further step is made, in vain.
    cfg = planted(photos, tmp_path / 'b', ['05.png'], 1)
    cfg.optim_wrapper.optimizer.fused = True
    cfg.default_hooks.logger.interval = 100
    _, watch, message = train(cfg, stops=True)
    assert 'in iteration 2 (' in message and len(watch.losses) == 2
    assert equal(watch.states[1], watch.states[2])
    assert equal(watch.states[1], watch.states[3])
    dump = read_dump(str(tmp_path / 'b' / 'nonfinite_iter_2_rank_0.pth'))
    assert [osp.basename(name) for name in dump['images']] == [
        '04.png', '05.png', '06.png', '07.png']


class CountWaits(Hook):
    """How often a step and its guard ask for a number on a device."""
    priority = 'HIGH'  # behind the guard

    class Mode(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.count += func is torch.ops.aten._local_scalar_dense.default
            return func(*args, **(kwargs or {}))

    def __init__(self):
        self.counts = []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.mode = self.Mode()
        self.mode.__enter__()

    def after_train_iter(self, runner, batch_idx, data_batch, outputs):
        self.mode.__exit__(None, None, None)
        self.counts.append(self.mode.count)


@pytest.mark.parametrize('on_device', [True, False])
def test_the_host_does_not_wait(photos, tmp_path, on_device,  # noqa: F811
                                monkeypatch):
    """Where the device decides; else once a step, to decide itself."""
    monkeypatch.setattr(finite_loss_hook, 'copy_to_host', delayed)
    monkeypatch.setattr(
        finite_loss_hook, '_decides_on_device', lambda optimizer: on_device)
    cfg = planted(photos, tmp_path, [], 1)
    cfg.optim_wrapper.optimizer.fused = True  # asks for nothing itself
    cfg.default_hooks.logger.interval = 100
    runner = Runner.from_cfg(cfg)
    count = CountWaits()
    runner.register_hook(count)
    runner.train()
    assert count.counts == [0 if on_device else 1] * 4


@pytest.mark.slow
def test_a_compiled_step_is_watched(photos, tmp_path):  # noqa: F811
    cfg = planted(photos, tmp_path, ['05.png'], 1)
    cfg.compile = dict(backend='aot_eager')
    _, watch, message = train(cfg, stops=True)
    assert 'loss_recon=nan' in message and 'in iteration 2 (' in message
    assert equal(watch.states[1], watch.states[2])


def _train_on_rank(rank, photos, work_dir, port):  # noqa: F811
    torch.set_num_threads(1)
    dist.init_process_group(
        'gloo', f'tcp://127.0.0.1:{port}', rank=rank, world_size=2)
    os.environ['LOCAL_RANK'] = '0'
    # Two images a batch: rank 1 has 07.png in its 2nd batch.
    cfg = planted(photos, work_dir, ['07.png'], 1)
    cfg.train_dataloader.batch_size = 2
    cfg.launcher = 'pytorch'
    cfg.randomness = dict(seed=0, diff_rank_seed=True)
    cfg.model_wrapper_cfg = dict(
        type='MMDistributedDataParallel', device_ids=None,
        broadcast_buffers=False, find_unused_parameters=False)
    _, watch, message = train(cfg, stops=True)
    torch.save((message, len(watch.losses), equal(*watch.states[-2:]),
                watch.states[-1][0]), osp.join(work_dir, f'rank{rank}.pt'))
    dist.destroy_process_group()


@pytest.mark.slow
def test_one_rank_of_two(photos, tmp_path):  # noqa: F811
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    mp.spawn(_train_on_rank, (photos, str(tmp_path), port), nprocs=2)
    first, second = (
        torch.load(tmp_path / f'rank{rank}.pt', weights_only=False)
        for rank in range(2))
    assert first[0] == second[0]
    assert 'in iteration 2 (epoch 1, batch 2 of 4, rank 1 of 2)' in first[0]
    assert '07.png' in first[0] and '06.png' not in first[0]
    assert first[1:3] == second[1:3] == (1, True)
    assert equal(first[3], second[3])
    dump, = tmp_path.glob('nonfinite*')
    assert dump.name == 'nonfinite_iter_2_rank_1.pth'


@pytest.mark.parametrize('max_skips', [-1, 1.0, True, None, '3'])
def test_refusals(max_skips):
    with pytest.raises(ValueError, match='max_skips=.* is not an int of at'):
        finite_loss_hook.FiniteLossHook(max_skips)
