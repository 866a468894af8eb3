"""mmseg's runner on the tiny data set, and what it did."""
import copy
import os.path as osp
import uuid
from pathlib import Path
from typing import Dict, List

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.utils import get_installed_path

# mmseg's own config.
MAE = osp.join(
    get_installed_path('mmseg'), '.mim', 'configs', 'mae',
    'mae-base_upernet_8xb2-amp-160k_ade20k-512x512.py')
# Sides of crops and sliding windows.
CROP = 64


class Record(Hook):
    """Keeps the backbone's weights as training starts, and each loss."""

    def __init__(self) -> None:
        self.start: Dict[str, torch.Tensor] = {}
        self.losses: List[float] = []

    def before_train(self, runner) -> None:
        self.start = copy.deepcopy(runner.model.backbone.state_dict())

    def after_train_iter(self, runner, batch_idx, data_batch, outputs):
        self.losses.append(float(outputs['loss'].detach()))


def shrink_run(cfg: Config, work_dir: Path, iterations: int) -> None:
    """Small images, few iterations, no worker processes, no warm-up."""
    cfg.work_dir = str(work_dir)
    cfg.optim_wrapper.type = 'OptimWrapper'  # as tools/train.py on a CPU
    cfg.optim_wrapper.pop('loss_scale', None)
    options = {
        'model.data_preprocessor.size': (CROP, CROP),
        'model.backbone.img_size': (CROP, CROP),
        'model.test_cfg.crop_size': (CROP, CROP),
        'model.test_cfg.stride': (42, 42),
        'train_dataloader.dataset.pipeline.2.scale': (4 * CROP, CROP),
        # Smaller images would be padded with pixels that have no loss.
        'train_dataloader.dataset.pipeline.2.ratio_range': (1.0, 1.0),
        'train_dataloader.dataset.pipeline.3.crop_size': (CROP, CROP),
        'val_dataloader.dataset.pipeline.1.scale': (4 * CROP, CROP),
        'test_dataloader.dataset.pipeline.1.scale': (4 * CROP, CROP),
        'test_pipeline.1.scale': (4 * CROP, CROP),  # of mmseg.apis
        'param_scheduler.0.start_factor': 1.0,
        'train_cfg.max_iters': iterations,
        'train_cfg.val_interval': iterations,
        'default_hooks.checkpoint.interval': iterations,
        'default_hooks.logger.interval': 1,
        'log_level': 'ERROR',
        'randomness': dict(seed=0),
    }
    for split in ('train', 'val', 'test'):
        options.update({
            f'{split}_dataloader.num_workers': 0,
            f'{split}_dataloader.persistent_workers': False
        })
    cfg.merge_from_dict(options)


def build_runner(cfg: Config) -> Runner:
    """Each is an experiment with a visualizer of its own."""
    cfg = copy.deepcopy(cfg)
    cfg.experiment_name = cfg.visualizer.name = uuid.uuid4().hex
    runner = Runner.from_cfg(cfg)
    runner.record = Record()
    runner.register_hook(runner.record)
    return runner
