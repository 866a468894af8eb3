"""What a checkpoint says of its model."""
import json

import pytest
import timm
import torch
from mmengine.config import Config
from mmpretrain.models.utils import build_2d_sincos_position_embedding

from dmae_mm.weights import TensorFile, convert_mae_file, read_tensor_file
from dmae_mm.weights.origin import (IMAGENET_MEAN, Origin, backbone_said,
                                    config_said,
                                    normalisation_of, origin_of,
                                    signs_of_another_origin)

from tests.toys.models import STUDENT
from tests.toys.checkpoints import encoder_only, golden_weights

FULL = golden_weights('teacher')
ENCODER = encoder_only(FULL)


def file_of(tensors, meta=dict(), weights_key=None):
    return TensorFile('file', 64 * '0', 1, dict(tensors), [], weights_key,
                      meta=dict(meta))


MODEL = dict(
    type='DMAE',
    backbone=dict(type='MAEViT', arch='deit-s', img_size=(32, 64),
                  patch_size=8),
    teacher=dict(backbone=dict(img_size=7)))
IMAGES = dict(mean=[1, 2, 3.5], std=[4., 5, 6], to_rgb=True)


@pytest.mark.parametrize('config', [
    dict(model=MODEL, data_preprocessor=IMAGES),
    dict(model=dict(MODEL, data_preprocessor=IMAGES)),
    dict(model=MODEL, img_norm_cfg=IMAGES),
])
@pytest.mark.parametrize('key', ['cfg', 'config'])
def test_by_the_config_in_it(config, key):
    """As MMEngine writes it; it is not executed."""
    text = 'import os\nos.abort()\n' + Config(config).pretty_text
    origin = origin_of({key: text})
    assert origin == Origin((32, 64), (8, 8), 6, (1, 2, 3.5), (4, 5, 6), True,
                            'the config in it', backbone='mmpretrain.MAEViT')
    assert origin.grid(32) == (4, 8) and origin.grid(16) is None


def test_by_its_metadata():
    origin = Origin((16, 64), (8, 8), 2, (1., ), (2., ), False)
    for meta in (origin.as_meta(),
                 {'trained_as': json.dumps(origin.as_meta()['trained_as'])}):
        found = origin_of(dict(meta, cfg='model = dict()'))
        assert found.as_meta() == origin.as_meta()


def test_defaults_and_heads_of_an_architecture():
    backbone = dict(type='VisionTransformer', arch=dict(STUDENT))
    text = Config(dict(model=dict(backbone=backbone))).pretty_text
    conv = {'backbone.patch_embed.projection.weight': torch.zeros(4, 3, 16, 8)}
    origin = origin_of(dict(cfg=text), conv)
    assert origin.num_heads == STUDENT['num_heads']
    assert origin.img_size == (224, 224) and origin.grid(392) == (14, 28)
    assert origin.mean is origin.to_rgb is None


def test_patches_that_are_cut_off():
    """mmpretrain fills up the last one, timm leaves it out."""
    origin = Origin((20, 36), (8, 8))
    assert origin.grid(3 * 5) == (3, 5) and origin.grid(2 * 4) == (2, 4)


@pytest.mark.parametrize('meta', [
    dict(), dict(cfg='model = dict('), dict(cfg=3), dict(trained_as='{'),
    dict(trained_as=[1]), dict(cfg='model = f()'),
    dict(trained_as=dict(img_size='x', num_heads=2.5, mean=[1, 'a'],
                         std=[1, 2], to_rgb=1)),
    dict(trained_as=dict(mean=[1, 2], std=[0, 1])),
    dict(trained_as=dict(mean=[1, 2], std=[1])),
])
def test_nonsense_says_nothing(meta):
    origin = origin_of(meta)
    assert origin.as_meta() == {'trained_as': {}} and origin.grid(1) is None


class TestNormalisation:

    def test_of_mae(self):
        tuned = {name.replace('norm.', 'fc_norm.') if name.startswith('norm.')
                 else name: tensor for name, tensor in ENCODER.items()}
        tuned['head.weight'] = torch.zeros(5, 32)
        fixed = build_2d_sincos_position_embedding(4, 32, cls_token=True)
        for file in (file_of(FULL), file_of(FULL, weights_key='model'),
                     file_of(tuned, weights_key='model'),
                     file_of(dict(ENCODER, pos_embed=fixed)),
                     file_of(dict(ENCODER, pos_embed=fixed.half()))):
            assert normalisation_of(file).mean == IMAGENET_MEAN
        for file in (file_of(ENCODER), file_of(tuned),
                     file_of(dict(tuned, **{'norm.weight': torch.ones(32)}),
                             weights_key='model')):
            assert normalisation_of(file).mean is None

    @pytest.mark.parametrize('name, kwargs, sign', [
        ('vit_tiny_patch16_224', {}, 'head.weight'),
        ('vit_base_patch16_clip_224', dict(num_classes=0), 'norm_pre.weight'),
        ('vit_small_patch14_dinov2', {}, 'blocks.0.ls1.gamma'),
        ('vit_small_patch14_reg4_dinov2', {}, 'reg_token'),
        ('vit_base_patch16_siglip_224', {}, 'attn_pool.latent'),
        ('vit_base_patch16_siglip_gap_224', {}, 'no cls_token'),
    ])
    def test_another_origin_shows(self, name, kwargs, sign):
        with torch.device('meta'):
            state = timm.create_model(name, **kwargs).state_dict()
        signs = signs_of_another_origin(file_of(state))
        assert sign in signs
        assert normalisation_of(file_of(state)).mean is None

    def test_timms_training_and_mmpretrains_clip(self):
        assert signs_of_another_origin(file_of(ENCODER)) == []
        assert signs_of_another_origin(
            file_of(ENCODER, dict(arch='vit'))) == ["arch='vit'"]
        assert signs_of_another_origin(file_of({
            'backbone.layers.0.ln1.weight': torch.ones(1),
            'backbone.pre_norm.weight': torch.ones(1)
        })) == ['backbone.pre_norm.weight']

    @pytest.mark.parametrize('ending', ['pth', 'safetensors'])
    def test_is_kept_by_conversion(self, tmp_path, ending):
        source, dst = tmp_path / 'mae.pth', str(tmp_path / f'dst.{ending}')
        torch.save(FULL, source)
        convert_mae_file(str(source), dst)
        assert normalisation_of(
            read_tensor_file(dst)).mean == IMAGENET_MEAN
        torch.save(dict(ENCODER, **{'head.weight': torch.ones(5, 32)}), source)
        convert_mae_file(str(source), dst, overwrite=True)
        file = read_tensor_file(dst)
        assert normalisation_of(file).mean is None
        assert signs_of_another_origin(file) == ['head.weight']


@pytest.mark.parametrize('backbone, style, eps', [
    (dict(type='ResNet', depth=50), 'pytorch', 1e-5),
    (dict(type='ResNet', depth=50, style='caffe'), 'caffe', 1e-5),
    (dict(type='mmpretrain.ResNet', norm_cfg=dict(type='SyncBN', eps=.01)),
     'pytorch', .01),
    (dict(type='MobileNetV3'), None, 1e-3),  # its class's default
    (dict(type='HRNet', arch='w18'), None, 1e-5),
    (dict(type='EfficientNet', arch='b0'), None, 1e-3),
    (dict(type='mmcv.NoSuchNet', norm_cfg=dict(type='BN')), None, 1e-5),
    (dict(type='mmcv.NoSuchNet'), None, None),
    (dict(type='SwinTransformer'), None, None),  # no batch norms
    (dict(type='ResNet', norm_cfg=dict(type='GN', eps=.1)), 'pytorch', None),
])
def test_options_of_students_without_tokens(backbone, style, eps):
    text = Config(dict(model=dict(backbone=backbone))).pretty_text
    origin = origin_of(dict(cfg=text))
    assert (origin.style, origin.norm_eps) == (style, eps)


@pytest.mark.parametrize('kind, scope, found', [
    ('ResNet', 'mmpretrain', 'mmpretrain.ResNet'),
    ('ResNet', 'mmcls', 'mmpretrain.ResNet'),
    ('mmdet.ResNet', 'mmpretrain', 'mmdet.ResNet'),
    ('ResNet', 'mmseg', 'mmseg.ResNet'),
])
def test_the_package_of_a_backbone(kind, scope, found):
    backbone = dict(type=kind, depth=18, out_indices=[0, 3], arch=dict(a=1),
                    drop_path_rate=.1, init_cfg=dict(type='x'))
    text = Config(dict(model=dict(backbone=backbone),
                       default_scope=scope)).pretty_text
    assert origin_of(dict(cfg=text)).backbone == found
    said = backbone_said(dict(cfg=text))
    assert said == {'type': found, 'arch.a': 1, 'depth': 18}
    assert list(said)[0] == 'type'
    for nonsense in (dict(), dict(cfg=3), dict(cfg='model = dict('),
                     dict(cfg='model = dict(backbone=f())')):
        assert backbone_said(nonsense) == {}


def test_the_config_of_a_run():
    """In its checkpoint, and in what was exported from it."""
    cfg = dict(model=dict(backbone=dict(type='ResNet', arch=dict(a=(1, 2)))),
               default_scope='mmpretrain')
    meta = dict(cfg=Config(cfg).pretty_text)
    for found in (meta, dict(source_meta=meta),
                  dict(source_meta=json.dumps(meta)),
                  dict(cfg='a = 1', source_meta=meta)):
        assert config_said(found) == cfg
    other = Config(dict(cfg, default_scope='mmdet')).pretty_text
    for nonsense in (dict(), dict(cfg=3), dict(cfg='model = dict('),
                     dict(cfg='model = dict(backbone=f())'),
                     dict(cfg=other), dict(source_meta='{'),
                     dict(source_meta=[meta]), dict(cfg='x = ' + '[' * 9999)):
        assert config_said(nonsense) == {}
