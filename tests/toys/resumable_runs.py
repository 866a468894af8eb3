"""Toy runs that are interrupted and resumed, and what they are compared by."""
import copy
import os
import random
import signal
from pathlib import Path

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner

from dmae_mm.engine.hooks.preemption_hook import Preempted
from studies.compare_checkpoints import checkpoint_content, differences
from .runs import config, end_workers

# 16 images in batches of 3: 6 batches an epoch, the last of one image.
BATCHES = 6


class Crash(Exception):
    """Stands for whatever ends a process."""


class Watch(Hook):
    """Records all that a run does, and may end it."""

    priority = 'VERY_LOW'  # after checkpoints, before preemption

    def __init__(self, crash_after=None, signal_in=None,
                 number=signal.SIGTERM):
        self.crash_after, self.signal_in = crash_after, signal_in
        self.number = number
        self.steps, self.images, self.epoch_ends = [], [], []

    def before_train_iter(self, runner, batch_idx, data_batch):
        self.images.append(data_batch['inputs'].clone())
        if runner.iter + 1 == self.signal_in:
            os.kill(os.getpid(), self.number)

    def after_train_iter(self, runner, batch_idx, data_batch, outputs):
        hub = runner.message_hub
        self.steps.append(
            dict(
                epoch=runner.epoch,
                iter=runner.iter,
                batch_idx=batch_idx,
                # What the log would show, averaged over several steps.
                logged={
                    name: buffer.mean(10)
                    for name, buffer in hub.log_scalars.items()
                    if 'time' not in name
                },
                **{name: value.item() for name, value in outputs.items()}))
        if runner.iter + 1 == self.crash_after:
            raise Crash

    def after_train_epoch(self, runner):
        self.epoch_ends.append((runner.epoch, runner.iter))


def resumable(photos, work_dir, num_workers=0, counts=1, **options):
    """Config of 3 epochs of 6 batches, with an average of the weights."""
    cfg = config(photos, work_dir, 3, num_workers=num_workers)
    cfg.train_dataloader.batch_size = 3
    cfg.optim_wrapper.accumulative_counts = counts
    cfg.custom_hooks += [
        dict(type='PreemptionHook'),
        dict(type='EMAHook', momentum=0.1)
    ]
    cfg.default_hooks.checkpoint.update(options)
    return cfg


def start(cfg, resume=False, hooks=(), **watch):
    """Train, and return the runner and what was recorded."""
    cfg = copy.deepcopy(cfg)
    cfg.resume = resume
    cfg.experiment_name = f'{cfg.work_dir}-{random.getrandbits(30)}'
    runner = Runner.from_cfg(cfg)
    hook = Watch(**watch)
    for each in (hook, *hooks):
        runner.register_hook(each)
    ended = None
    try:
        runner.train()
    except (Crash, Preempted) as error:
        ended = error
    end_workers(runner)
    runner.message_hub.update_info('ended', type(ended).__name__)
    return runner, hook


def ended_by(runner):
    return runner.message_hub.get_info('ended')


def assert_same_checkpoints(first, second):
    """Weights, average, optimizer and schedules, bit for bit."""
    ours, theirs = checkpoint_content(first), checkpoint_content(second)
    assert len(theirs) > 200 and differences(ours, theirs) == []
    assert any(name.startswith('/ema_state_dict') for name in theirs)
    ours, theirs = (
        torch.load(path, weights_only=False)['meta']
        for path in (first, second))
    for key in ('epoch', 'iter', 'position'):
        assert ours[key] == theirs[key]


def contents(work_dir):
    return {
        path.name: path.read_bytes()
        for path in Path(work_dir).iterdir() if path.suffix == '.pth'
    }
