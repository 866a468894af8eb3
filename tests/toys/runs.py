"""Runs of toy size, in this process and by the tools."""
import contextlib
import copy
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import List

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from PIL import Image

from .models import ROOT, TOY_MODEL, two_teachers

TRAIN = ROOT / 'tools' / 'train.py'
LAUNCHER_VARIABLES = re.compile(
    'RANK|LOCAL_RANK|WORLD_SIZE|MASTER_ADDR|MASTER_PORT|PORT|SLURM_.*|OMPI_.*')


def config(photos, work_dir, epochs=2, num_workers=0, teacher=True):
    model = copy.deepcopy(TOY_MODEL)
    if not teacher:
        model.update(teacher=None, aligned_layers=[])
    return Config(
        dict(
            default_scope='mmpretrain',
            model=model,
            work_dir=str(work_dir),
            train_dataloader=dict(
                batch_size=4,
                num_workers=num_workers,
                persistent_workers=num_workers > 0,
                sampler=dict(type='SeededSampler', shuffle=True),
                collate_fn=dict(type='default_collate'),
                dataset=dict(
                    type='CustomDataset',
                    data_root=photos,
                    with_label=False,
                    pipeline=[
                        dict(type='SeedSample'),
                        dict(type='LoadImageFromFile'),
                        dict(
                            type='RandomResizedCrop',
                            scale=32,
                            crop_ratio_range=(0.2, 1.0)),
                        dict(type='RandomFlip', prob=0.5),
                        dict(type='PackInputs')
                    ])),
            data_preprocessor=dict(
                type='SelfSupDataPreprocessor',
                mean=[127.5] * 3,
                std=[127.5] * 3),
            optim_wrapper=dict(
                type='OptimWrapper',
                optimizer=dict(type='AdamW', lr=1e-3, betas=(0.9, 0.95))),
            param_scheduler=[
                dict(
                    type='CosineAnnealingLR',
                    T_max=epochs,
                    convert_to_iter_based=True)
            ],
            train_cfg=dict(type='ResumableTrainLoop', max_epochs=epochs),
            default_hooks=dict(
                logger=dict(type='LoggerHook', interval=1),
                checkpoint=dict(type='AtomicCheckpointHook', interval=1)),
            custom_hooks=[
                dict(type='ExactResumeHook'),
                dict(type='TeacherHook')
            ],
            randomness=dict(seed=0),
            log_level='ERROR'))


def with_two_teachers(cfg, **changes):
    """A config of a toy run, taught by two whose targets have statistics."""
    cfg = copy.deepcopy(cfg)
    model = two_teachers(**changes)
    model['teachers']['mae']['target'] = dict(
        type='PHIStandardize', num_images=13)
    model['teachers']['dino']['target'] = dict(
        type='Standardize', momentum=dict(start=1.0, end=0.1, steps=6))
    preprocessor = cfg.model.get('data_preprocessor')
    if preprocessor is not None:
        model['data_preprocessor'] = preprocessor
    cfg.model = model
    cfg.custom_hooks.append(dict(type='CalibrationHook'))
    return cfg


def run(cfg, **changes):
    """Train, and return the runner and each step's losses."""
    cfg = copy.deepcopy(cfg)
    cfg.merge_from_dict(changes)
    cfg.experiment_name = f'{cfg.work_dir}-{np.random.randint(1 << 30)}'
    runner = Runner.from_cfg(cfg)
    losses = []

    class Record(Hook):

        def after_train_iter(self, runner, batch_idx, data_batch, outputs):
            losses.append(
                {name: float(value.detach())
                 for name, value in outputs.items()})

    runner.register_hook(Record())
    runner.train()
    end_workers(runner)
    return runner, losses


def end_workers(runner):
    """Those that live through all epochs.

    Left to the garbage collection of a later test, each takes 5 seconds.
    """
    iterator = getattr(runner.train_dataloader, '_iterator', None)
    if iterator is not None:
        iterator._shutdown_workers()


def write_toy_run(folder: Path) -> Path:
    """Eight images and a config that trains on them for two epochs.

    Returns:
        Path: The config, in ``folder``.
    """
    pixels = np.random.RandomState(0).randint(0, 256, (8, 40, 40, 3), np.uint8)
    (folder / 'images').mkdir(parents=True)
    for index, image in enumerate(pixels):
        Image.fromarray(image).save(folder / 'images' / f'{index}.png')
    cfg = Config(
        dict(
            custom_imports=dict(
                imports=['dmae_mm'], allow_failed_imports=False),
            default_scope='mmpretrain',
            model=dict(
                copy.deepcopy(TOY_MODEL),
                data_preprocessor=dict(
                    type='SelfSupDataPreprocessor',
                    mean=[127.5] * 3,
                    std=[127.5] * 3)),
            train_dataloader=dict(
                batch_size=2,
                num_workers=0,
                persistent_workers=False,
                collate_fn=dict(type='default_collate'),
                sampler=dict(type='DefaultSampler', shuffle=True),
                dataset=dict(
                    type='CustomDataset',
                    data_root=str(folder / 'images'),
                    with_label=False,
                    pipeline=[
                        dict(type='LoadImageFromFile'),
                        dict(type='RandomResizedCrop', scale=32),
                        dict(type='PackInputs')
                    ])),
            optim_wrapper=dict(
                type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-3)),
            train_cfg=dict(by_epoch=True, max_epochs=2),
            default_hooks=dict(logger=dict(type='LoggerHook', interval=1)),
            custom_hooks=[dict(type='TeacherHook')],
            randomness=dict(seed=0)))
    cfg.dump(folder / 'toy_run.py')
    return folder / 'toy_run.py'


def launch(command: List[str], cwd: Path, **env: str) -> str:
    """Run a command without GPU and return what it printed."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not LAUNCHER_VARIABLES.fullmatch(name)
    }
    result = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=dict(
            inherited,
            PYTHON=sys.executable,
            CUDA_VISIBLE_DEVICES='',
            OMP_NUM_THREADS='1',
            **env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True)
    assert result.returncode == 0, result.stdout
    return result.stdout


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return str(probe.getsockname()[1])


@contextlib.contextmanager
def small_disk(folder, *options):
    """A file system of one megabyte in memory, where one may be mounted."""
    folder.mkdir()
    result = subprocess.run(
        ['mount', '-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', str(folder)],
        capture_output=True)
    if result.returncode:
        pytest.skip('mounting needs root')
    try:
        yield folder
    finally:
        subprocess.run(['umount', '-l', str(folder)], check=True)
