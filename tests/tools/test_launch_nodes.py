"""dist_train.sh on two machines, which are this one twice."""
import copy
import json
import os
import socket
import subprocess
import sys

import cv2
import numpy as np
import pytest
from mmengine.config import Config

from tests.toys.models import ROOT, TOY_MODEL


@pytest.fixture
def config(tmp_path):
    """A toy config with eight images, to be trained two steps."""
    photos = tmp_path / 'photos'
    photos.mkdir()
    rng = np.random.default_rng(0)
    for i in range(8):
        cv2.imwrite(
            str(photos / f'{i}.png'),
            rng.integers(0, 255, (32, 32, 3), dtype=np.uint8))
    path = tmp_path / 'toy.py'
    Config(
        dict(
            custom_imports=dict(
                imports=['dmae_mm'], allow_failed_imports=False),
            default_scope='mmpretrain',
            model=copy.deepcopy(TOY_MODEL),
            data_preprocessor=dict(
                type='SelfSupDataPreprocessor',
                mean=[127.5] * 3,
                std=[127.5] * 3),
            train_dataloader=dict(
                batch_size=2,
                num_workers=0,
                sampler=dict(type='DefaultSampler', shuffle=True),
                dataset=dict(
                    type='CustomDataset',
                    data_root=str(photos),
                    with_label=False,
                    pipeline=[
                        dict(type='LoadImageFromFile'),
                        dict(type='PackInputs')
                    ])),
            optim_wrapper=dict(
                type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-3)),
            train_cfg=dict(type='EpochBasedTrainLoop', max_epochs=1),
            default_hooks=dict(logger=dict(type='LoggerHook', interval=1)),
            randomness=dict(seed=0, diff_rank_seed=True))).dump(path)
    return path


def launch(config, work_dir, processes, **variables):
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = variables.pop('PORT', free.getsockname()[1])
    return subprocess.Popen(
        [
            'bash', 'tools/dist_train.sh',
            str(config),
            str(processes), '--work-dir',
            str(work_dir)
        ],
        cwd=ROOT,
        env=dict(
            os.environ,
            PYTHON=sys.executable,
            OMP_NUM_THREADS='1',
            PORT=str(port),
            **variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True)


def losses(work_dir):
    log, = work_dir.glob('*/vis_data/scalars.json')
    steps = [json.loads(line) for line in log.read_text().splitlines()]
    return [(step['iter'], step['loss']) for step in steps]


@pytest.mark.slow
def test_two_machines_train_as_one_with_two_processes(config, tmp_path):
    one = launch(config, tmp_path / 'one', 2)
    output, _ = one.communicate(timeout=300)
    assert one.returncode == 0, output
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    # The work dir is shared, as on a cluster's file system.
    nodes = [
        launch(
            config,
            tmp_path / 'two',
            1,
            PORT=port,
            NNODES='2',
            NODE_RANK=str(rank)) for rank in range(2)
    ]
    for node in nodes:
        output, _ = node.communicate(timeout=300)
        assert node.returncode == 0, output
    # Eight images in batches of 2 x 2.
    assert [step for step, _ in losses(tmp_path / 'one')] == [1, 2]
    assert losses(tmp_path / 'two') == losses(tmp_path / 'one')
