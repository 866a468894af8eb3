"""mmseg's stock MAE, which would load nothing without a word, computes the
same from what is exported."""
import sys

import pytest
import torch

from dmae_mm.weights import export_checkpoint

from tests.toys.export_models import (BACKBONES, assert_close, assert_equal,
                                      images_for, refused, state_of,
                                      timm_arguments, tokens_of, write)

KINDS = ['MAEViT', 'layer scale', 'no final norm', 'average pooling']


@pytest.mark.parametrize('kind', KINDS)
def test_to_mmseg(tmp_path, kind):
    from tests.toys import needs_mmseg  # noqa: F401
    from mmseg.models.backbones import MAE
    config, checkpoint, backbone = write(tmp_path, BACKBONES[kind])
    dst = str(tmp_path / 'mmseg.pth')
    exported = export_checkpoint(config, checkpoint, dst, 'mmseg')
    assert exported.loaded_by.startswith('mmseg 1') and exported.notes == []
    assert exported.left_out == ['backbone.ln2.weight', 'backbone.ln2.bias'
                                 ] * (kind == 'average pooling')
    assert not any(name.startswith(('backbone.', 'ln2'))
                   for name in state_of(dst))
    assert exported.usage.startswith(
        "backbone=dict(type='MAE', img_size=(32, 32)")
    cfg = eval(exported.usage.removeprefix('backbone='))
    del cfg['type']
    segmenter = MAE(**cfg)
    segmenter.init_weights()
    segmenter.eval()
    images = images_for(backbone)
    features = segmenter(images)[-1]
    assert_close(
        features.flatten(2).transpose(1, 2),
        tokens_of(backbone, images)[:, 1:])
    # Larger images are why one segments: positions are interpolated.
    larger = MAE(**dict(cfg, img_size=(64, 64)))
    larger.init_weights()
    assert torch.equal(larger.layers[3].gamma_2, segmenter.layers[3].gamma_2)


@pytest.mark.parametrize('kind', KINDS)
def test_without_mmseg(tmp_path, monkeypatch, kind):
    """The same file, tried as far as that is possible."""
    config, checkpoint, _ = write(tmp_path, BACKBONES[kind])
    dst, other = str(tmp_path / 'mmseg.pth'), str(tmp_path / 'without.pth')
    export_checkpoint(config, checkpoint, dst, 'mmseg')
    monkeypatch.setitem(sys.modules, 'mmseg', None)
    exported = export_checkpoint(config, checkpoint, other, 'mmseg')
    assert_equal(state_of(other), state_of(dst))
    assert exported.loaded_by == "mmpretrain's VisionTransformer"
    assert exported.differences.keys() == {'patches'}
    note, = exported.notes
    assert 'ModuleNotFoundError' in note
    assert 'pip install "dmae_mm[mmseg]"' in note


def test_timm_to_mmseg(tmp_path):
    config, checkpoint, _ = write(tmp_path, BACKBONES['MAEViT'])
    in_timm, one, other = (str(tmp_path / f'{n}.pth') for n in range(3))
    usage = export_checkpoint(config, checkpoint, in_timm, 'timm').usage
    name, kwargs = timm_arguments(usage)
    export_checkpoint(name, in_timm, one, 'mmseg', timm_kwargs=kwargs)
    export_checkpoint(config, checkpoint, other, 'mmseg')
    assert_equal(state_of(one), state_of(other))


@pytest.mark.filterwarnings('ignore:The `use_layer_scale`:UserWarning')
@pytest.mark.parametrize('kind, message', [
    ('no CLS', 'no CLS token'),
    ('DeiT3', 'a CLS token without position (DeiT3)'),
    ('pre-norm', 'pre_norm=True'),
    ('no bias, gray, oblong', 'qkv_bias=False'),
    ('oblong patches', 'patch_size=(8, 4)'),
    ('odd MLP', 'feedforward_channels=49, which is no multiple of the width'),
])
def test_models_that_mmseg_cannot_express(tmp_path, kind, message):
    config, checkpoint, _ = write(tmp_path, BACKBONES[kind])
    dst = tmp_path / 'dst.pth'
    assert refused(config, checkpoint, dst, 'mmseg') == (
        f"mmseg's MAE cannot express {message}.")
    assert not dst.exists()
