"""The command says that all arrives in each config that is shipped."""
import os

import pytest
import torch
from mmengine.config import Config
from mmengine.utils import get_installed_path

from dmae_mm.weights import export_checkpoint

from tests.toys.hosted_students import write_student
from tests.toys.models import ROOT
from tests.toys.transfer_checks import check, refused, trained

# Those for a part of the labels have the same model as their base.
CONFIGS = [
    path for folder in ('benchmarks', 'segmentation', 'detection')
    for path in sorted((ROOT / 'configs' / folder).glob('*.py'))
    if not path.stem.endswith('pct_in1k')
]
# Students that are no vision transformers, and how many tensors they have.
OTHERS = {
    'resnet50_faster-rcnn_coco': (dict(type='ResNet', depth=50), 318),
    'cspnext-t_rtmdet_coco': (dict(
        type='mmdet.CSPNeXt',
        deepen_factor=0.167,
        widen_factor=0.375,
        norm_cfg=dict(type='BN')), 206),
    'swin-t_upernet_ade20k-512x512': (dict(
        type='SwinTransformer', arch='tiny', out_indices=[0, 1, 2, 3]), 189),
}


@pytest.mark.parametrize('config', CONFIGS, ids=lambda path: path.stem)
def test_all_arrives_in_every_shipped_config(config, full_size, tmp_path,
                                             capsys):
    if config.parent.name == 'detection':
        from tests.toys import needs_mmdet  # noqa: F401
    if config.parent.name == 'segmentation':
        from tests.toys import needs_mmseg  # noqa: F401
    cfg = Config.fromfile(config)
    if 'init_cfg' not in cfg.model.backbone:
        pytest.skip('names no checkpoint')
    if config.stem in OTHERS:
        backbone, number = OTHERS[config.stem]
        write_student(tmp_path / 'student.pth', backbone)
        *table, verdict = check(capsys, config, tmp_path / 'student.pth')
        assert verdict == f'All {number} backbone tensors arrived (0 resized).'
        assert not any(line.startswith('Note') for line in table)
        return
    *table, verdict = check(capsys, config, full_size(cfg.model.backbone.arch))
    assert 'left at initialisation: 0' in table
    # Those of 12 blocks, embeddings and, where there is one, the last norm;
    # WindowedViT has no CLS token.
    number = dict(linear=150, faster=150, mask=147).get(
        config.stem.split('_')[1].split('-')[0], 148)
    resized = int('segmentation' in str(config) or 'mask-rcnn' in str(config))
    assert verdict == (
        f'All {number} backbone tensors arrived ({resized} resized).')


@pytest.mark.slow
def test_mmsegs_own_config(full_size, tmp_path, capsys):
    """Unchanged, from an exported file; the file itself is refused."""
    from tests.toys import needs_mmseg  # noqa: F401
    config = os.path.join(
        get_installed_path('mmseg'), '.mim/configs/mae/'
        'mae-base_upernet_8xb2-amp-160k_ade20k-512x512.py')
    model = tmp_path / 'pretraining.py'
    model.write_text("model = dict(backbone=dict(type='MAEViT', arch='b'))")
    source = full_size('b')
    export_checkpoint(str(model), source, str(tmp_path / 'mae.pth'), 'mmseg')
    *table, verdict = check(capsys, config, tmp_path / 'mae.pth')
    assert verdict == 'All 172 backbone tensors arrived (1 resized).'
    assert 'model.pretrained' in table[1]
    assert 'new: not in this pre-training: 12' in table
    table, error = refused(capsys, config, source)
    assert 'loaded: 0' in table and 'left at initialisation: 148' in table
    assert error.startswith('0 of 148 backbone tensors arrived.')
    assert "(148 of 148). mmseg's MAE takes names without prefix" in error
    assert error.endswith(f'export.py MODEL {source} DST --to mmseg')


@pytest.fixture(scope='module')
def full_size(tmp_path_factory):
    """Path of a file of random weights of a MAEViT of ImageNet's size."""
    folder = tmp_path_factory.mktemp('full_size')

    def path_of(arch):
        path = folder / f'{arch}.pth'
        if not path.exists():
            state = trained(dict(type='MAEViT', arch=arch))
            torch.save(
                dict(state_dict={
                    f'backbone.{name}': tensor
                    for name, tensor in state.items()
                }), path)
        return str(path)

    return path_of
