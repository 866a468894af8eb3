"""Runs of toy size in which an image holds no numbers."""
import contextlib
import copy
import os.path as osp

import numpy as np
import pytest
import torch
from mmcv.transforms import BaseTransform
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS, TRANSFORMS

from dmae_mm.engine.hooks.finite_loss_hook import NonFiniteLossError
from .runs import config


@TRANSFORMS.register_module(force=True)
class PlantNaN(BaseTransform):
    """The images of these names hold no numbers."""

    def __init__(self, names):
        self.names = names

    def transform(self, results):
        results['img'] = results['img'].astype(np.float32)
        if osp.basename(results['img_path']) in self.names:
            results['img'][:] = np.nan
        return results


def planted(photos, work_dir, names, epochs=2, max_skips=0):
    """16 images in their order, in batches of 4."""
    cfg = config(photos, work_dir, epochs)
    cfg.train_dataloader.sampler.shuffle = False
    cfg.train_dataloader.dataset.pipeline.insert(
        -1, dict(type='PlantNaN', names=names))
    cfg.default_hooks.runtime_info = dict(
        type='FiniteLossHook', max_skips=max_skips)
    return cfg


class Watch(Hook):
    """Weights, moments and losses before each step and after the last."""
    priority = 'LOWEST'

    def __init__(self):
        self.states, self.losses = [], []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.states.append(
            copy.deepcopy((runner.model.state_dict(),
                           runner.optim_wrapper.optimizer.state_dict())))

    def after_train_iter(self, runner, batch_idx, data_batch, outputs):
        self.losses.append({k: float(v.detach()) for k, v in outputs.items()})


def train(cfg, stops=False, **changes):
    cfg = copy.deepcopy(cfg)
    cfg.merge_from_dict(changes)
    cfg.experiment_name = f'{cfg.work_dir}-{np.random.randint(1 << 30)}'
    runner = Runner.from_cfg(cfg)
    watch = Watch()
    runner.register_hook(watch)
    with pytest.raises(NonFiniteLossError) if stops else \
            contextlib.nullcontext() as caught:
        runner.train()
    watch.before_train_iter(runner, 0)
    return runner, watch, str(caught.value) if stops else ''


def flat(state):
    """All tensors of a state dict of an optimizer or a model, as one list."""
    if isinstance(state, torch.Tensor):
        return [state]
    if isinstance(state, dict):
        state = [state[key] for key in state]
    if isinstance(state, (list, tuple)):
        return [tensor for part in state for tensor in flat(part)]
    return []


def equal(one, other):
    one, other = flat(one), flat(other)
    return len(one) == len(other) and all(
        torch.equal(*pair) for pair in zip(one, other))


@HOOKS.register_module(force=True)
class PlantLater(Hook):
    """Puts a NaN into one image of the 6th batch."""

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == 5:
            data_batch['inputs'][1][:] = np.nan


def stop_in_sixth(photos, work_dir):
    """A run whose 6th iteration, the 2nd of epoch 2, reads a NaN."""
    cfg = planted(photos, work_dir, [], 2)
    cfg.custom_hooks.append(dict(type='PlantLater'))
    return work_dir, *train(cfg, stops=True)
