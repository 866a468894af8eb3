"""Training of detection and segmentation by the commands of the docs."""
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmpretrain.registry import MODELS

from tests.toys.models import ROOT, STUDENT, TOY_MODEL
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


def student(folder: Path, arch: dict) -> Path:
    """A checkpoint of pre-training, 4 x 4 patches of 8 px."""
    torch.manual_seed(0)
    model = MODELS.build(
        dict(
            TOY_MODEL,
            backbone=dict(TOY_MODEL['backbone'], arch=arch),
            neck=dict(TOY_MODEL['neck'], embed_dim=arch['embed_dims'])))
    torch.save(dict(state_dict=model.state_dict(), meta={}), folder / 's.pth')
    return folder / 's.pth'


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
    from tests.toys.segmentation_runs import shrink_run
    cfg = Config.fromfile(ROOT / 'configs' / 'segmentation' /
                          'vit-s_upernet_ade20k-512x512.py')
    shrink_run(cfg, tmp_path / 'run', 2)
    checkpoint = student(tmp_path, STUDENT)
    cfg.merge_from_dict({
        'model.backbone.patch_size': 8,
        'model.backbone.out_indices': [0, 1, 2, 3],
        'model.backbone.init_cfg.checkpoint': str(checkpoint),
        'model.neck.embed_dim': 24,
        'model.decode_head.in_channels': [24] * 4,
        'model.decode_head.channels': 16,
        'model.auxiliary_head.in_channels': 24,
        'model.auxiliary_head.channels': 8,
    })
    cfg.model.backbone.arch = STUDENT
    write_ade20k(tmp_path / 'data')
    for split in ('train', 'val', 'test'):
        cfg[f'{split}_dataloader'].dataset.data_root = str(tmp_path / 'data')
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
    checkpoint = student(tmp_path, arch)
    cfg = toy_config(MASK_RCNN, write_coco(tmp_path / 'data'),
                     tmp_path / 'run', str(checkpoint))
    cfg.model.backbone.patch_size = 8
    cfg.train_cfg.update(max_epochs=1, val_interval=5)
    cfg.dump(tmp_path / 'toy_mask_rcnn.py')
    assert trained(checkpoint, start(command, tmp_path / 'toy_mask_rcnn.py'))
