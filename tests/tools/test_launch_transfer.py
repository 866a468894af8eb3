"""Training of detection and segmentation by the commands of the docs."""
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.toys.checkpoints import write_student
from tests.toys.models import ROOT, STUDENT
from tests.toys.runs import LAUNCHER_VARIABLES, free_port


def start(command: list, config: Path) -> dict:
    """Run a command on a config and return the weights that it leaves."""
    env = {
        name: value
        for name, value in os.environ.items()
        if not LAUNCHER_VARIABLES.fullmatch(name)
    }
    result = subprocess.run(
        [part.format(config=config) for part in command],
        cwd=ROOT,
        env=dict(env, PYTHON=sys.executable, PORT=str(free_port()),
                 OMP_NUM_THREADS='1'),
        capture_output=True,
        text=True)
    assert result.returncode == 0, (result.stdout + result.stderr)[-6000:]
    checkpoint, = config.parent.glob('run/*_[0-9].pth')
    return torch.load(checkpoint, weights_only=False)['state_dict']


def trained(before: Path, after: dict) -> bool:
    """Whether the blocks have moved from where the checkpoint put them."""
    weights = torch.load(before, weights_only=True)['state_dict']
    name = 'backbone.layers.2.attn.qkv.weight'
    distance = (weights[name] - after[name]).abs().max()
    return 0 < distance < 0.01


@pytest.mark.slow
def test_segmentation(tmp_path):
    from tests.toys import needs_mmseg  # noqa: F401
    from tests.toys.ade20k import write_ade20k
    from tests.toys.segmentation_runs import toy_config
    checkpoint = write_student(tmp_path / 's.pth', STUDENT)
    cfg = toy_config('vit-s_upernet_ade20k-512x512.py',
                     write_ade20k(tmp_path / 'data'), tmp_path / 'run',
                     str(checkpoint))
    cfg.dump(tmp_path / 'toy_upernet.py')
    command = [
        sys.executable, '-m', 'mim', 'train', 'onedl-mmsegmentation',
        '{config}', '--gpus', '0'
    ]
    assert trained(checkpoint, start(command, tmp_path / 'toy_upernet.py'))


@pytest.mark.slow
@pytest.mark.parametrize('command', [
    ['bash', 'tools/dist_train.sh', '{config}', '2'],
    [sys.executable, '-m', 'mim', 'train', 'onedl-mmdetection', '{config}',
     '--gpus', '0'],
], ids=['dist_train.sh', 'mim'])
def test_detection(command, tmp_path):
    from tests.toys import needs_mmdet  # noqa: F401
    from tests.toys.coco import write_coco
    from tests.toys.detection_runs import ARCH, MASK_RCNN, toy_config
    arch = {name: ARCH[name] for name in ARCH if 'global' not in name}
    checkpoint = write_student(tmp_path / 's.pth', arch)
    cfg = toy_config(MASK_RCNN, write_coco(tmp_path / 'data'),
                     tmp_path / 'run', str(checkpoint))
    cfg.model.backbone.patch_size = 8
    cfg.train_cfg.update(max_epochs=1, val_interval=5)
    cfg.dump(tmp_path / 'toy_mask_rcnn.py')
    assert trained(checkpoint, start(command, tmp_path / 'toy_mask_rcnn.py'))
