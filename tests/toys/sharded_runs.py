"""Runs of toy size that are split over processes, and those of DDP."""
import copy

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import RUNNERS
from torch.utils.data import Dataset

from .models import TOY_MODEL


class Noise(Dataset):
    metainfo: dict = {}

    def __len__(self):
        return 16

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        return dict(
            inputs=torch.randint(
                0, 256, (3, 32, 32), generator=generator, dtype=torch.uint8),
            data_samples=0)


def config(work_dir, strategy=None, epochs=2, **changes):
    cfg = Config(
        dict(
            default_scope='mmpretrain',
            model=dict(
                copy.deepcopy(TOY_MODEL),
                data_preprocessor=dict(
                    type='SelfSupDataPreprocessor',
                    mean=[127.5] * 3,
                    std=[127.5] * 3)),
            work_dir=str(work_dir),
            experiment_name=f'{work_dir}-{epochs}-{changes}',
            train_dataloader=dict(
                batch_size=4,
                num_workers=0,
                sampler=dict(type='DefaultSampler', shuffle=True),
                collate_fn=dict(type='default_collate'),
                dataset=dict(type=Noise)),
            optim_wrapper=dict(
                type='OptimWrapper',
                optimizer=dict(type='AdamW', lr=1e-3),
                paramwise_cfg=dict(flat_decay_mult=0.)),
            param_scheduler=dict(type='LinearLR', end=3),
            train_cfg=dict(by_epoch=True, max_epochs=epochs),
            custom_hooks=[
                dict(type='ExactResumeHook'),
                dict(type='TeacherHook')
            ],
            randomness=dict(seed=0),
            launcher='pytorch',
            env_cfg=dict(dist_cfg=dict(backend='gloo')),
            log_level='ERROR',
            **changes))
    if strategy is None:
        cfg.model_wrapper_cfg = dict(
            type='MMDistributedDataParallel',
            device_ids=None,
            broadcast_buffers=False)
    else:
        cfg.runner_type = 'FlexibleRunner'
        cfg.strategy = dict(type='FullyShardedStrategy', **strategy)
    return cfg


def train(cfg):
    runner = RUNNERS.build(cfg)
    losses = []

    class Record(Hook):

        def after_train_iter(self, runner, batch_idx, data_batch, outputs):
            losses.append(
                {name: float(value.detach())
                 for name, value in outputs.items()})

    runner.register_hook(Record())
    runner.train()
    return runner, losses
