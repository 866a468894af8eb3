"""vit-s_dmae_in1k.py as it is: 224 px, ViT-B teacher, real photographs.

Only what a CPU of a test machine needs is changed on the command line: the
batch, the number of workers, and a schedule of a few steps.
"""
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import skimage
import torch
from mmpretrain.registry import MODELS
from PIL import Image
from sklearn.datasets import load_sample_images

from tests.toys.models import ROOT

CONFIG = 'configs/dmae/vit-s_dmae_in1k.py'
PHOTOS = ('astronaut.png', 'motorcycle_left.png')


@pytest.fixture(scope='module')
def options(tmp_path_factory):
    """Photographs, a ViT-B with random weights in a file, and options."""
    folder = tmp_path_factory.mktemp('real_shapes')
    photos = folder / 'photos' / 'nested'
    photos.mkdir(parents=True)
    for name in PHOTOS:
        shutil.copy(Path(skimage.__file__).parent / 'data' / name, photos)
    for i, pixels in enumerate(load_sample_images().images):
        Image.fromarray(pixels).save(folder / 'photos' / f'{i}.JPEG')
    teacher = MODELS.build(
        dict(
            type='MMPretrainTeacher',
            backbone=dict(type='MAEViT', arch='b'),
            aligned_blocks=[-1],
            allow_random=True)).network
    torch.save(dict(state_dict=teacher.state_dict()), folder / 'vit-b.pth')
    return [
        '--cfg-options',
        f'train_dataloader.dataset.data_root={photos.parent}',
        f'model.teacher.checkpoint={folder / "vit-b.pth"}',
        'train_dataloader.batch_size=4',
        'train_dataloader.num_workers=1',
        'optim_wrapper.accumulative_counts=1',
        'optim_wrapper.optimizer.lr=3e-4',
        'optim_wrapper.type=OptimWrapper',
        'param_scheduler.0.start_factor=1.0',
        'param_scheduler.0.end=1',
        'param_scheduler.1.begin=1',
        'default_hooks.logger.interval=1',
    ]


# The losses are looked at where the number of processes differs; `mim` starts
# the same script.
STEPS = {'train.py': 6, 'dist_train.sh': 6, 'mim mmpretrain': 2,
         'mim dmae_mm': 2}
LAUNCHES = {
    'train.py': [sys.executable, 'tools/train.py', CONFIG],
    'dist_train.sh': ['bash', 'tools/dist_train.sh', CONFIG, '2'],
    'mim mmpretrain': [
        sys.executable, '-m', 'mim', 'train', 'mmpretrain', CONFIG, '--gpus',
        '0'
    ],
    'mim dmae_mm': [
        sys.executable, '-m', 'mim', 'train', 'dmae_mm', CONFIG, '--gpus', '0'
    ],
}


@pytest.mark.slow
@pytest.mark.parametrize('launch', LAUNCHES)
def test_training(options, launch, tmp_path):
    steps_wanted = STEPS[launch]
    two_processes = ['train_dataloader.batch_size=2'
                     ] if launch == 'dist_train.sh' else []
    result = subprocess.run(
        [
            *LAUNCHES[launch], '--work-dir', str(tmp_path), *options,
            *two_processes, f'train_cfg.max_epochs={steps_wanted}',
            f'default_hooks.checkpoint.interval={steps_wanted}'
        ],
        cwd=ROOT,
        env=dict(os.environ, PYTHON=sys.executable, OMP_NUM_THREADS='1'),
        capture_output=True,
        text=True)
    assert result.returncode == 0, (result.stdout +
                                    result.stderr)[-6000:]
    with open(next(tmp_path.glob('*/vis_data/scalars.json'))) as file:
        steps = [json.loads(line) for line in file]
    assert len(steps) == steps_wanted
    for name in ('loss_recon', 'loss_align_s8_t8'):
        assert all(step[name] > 0 for step in steps)
        if steps_wanted == 2:
            continue
        first, last = (sum(step[name] for step in part) / 2
                       for part in (steps[:2], steps[-2:]))
        assert last < 0.97 * first, (name, first, last)
    checkpoint = tmp_path / f'epoch_{steps_wanted}.pth'
    weights = torch.load(checkpoint, weights_only=False)['state_dict']
    assert weights['backbone.layers.11.attn.qkv.weight'].shape == (1152, 384)
    assert weights['distill_neck.projectors.0.weight'].shape == (768, 384)
