"""Backbones of all kinds of models, filled strictly."""
import copy

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample

from dmae_mm.evaluation import FeatureModel, extract_features
from dmae_mm.evaluation.images import image_size
from dmae_mm.evaluation.trained_models import read_loader
from tests.toys.models import STUDENT, TOY_MODEL, timm_student

NORMALISE = dict(mean=[1., 2, 3], std=[2., 4, 8], to_rgb=True)
VIT = dict(
    type='VisionTransformer', arch=STUDENT, img_size=32, patch_size=8)


def save(folder, model, **others):
    """A config, and a checkpoint with random weights of its backbone."""
    Config(dict(model=model, **others)).dump(folder / 'config.py')
    backbone = MODELS.build(dict(model['backbone'], _scope_='mmpretrain'))
    torch.manual_seed(0)
    for parameter in backbone.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    torch.save(
        dict(state_dict={
            f'backbone.{name}': tensor
            for name, tensor in backbone.state_dict().items()
        }), folder / 'model.pth')
    backbone.eval()  # mmpretrain's return nothing here
    return FeatureModel(
        str(folder / 'config.py'), str(folder / 'model.pth')), backbone


def features_of(model, images, pooling='mean'):
    batch = dict(
        inputs=images,
        data_samples=[DataSample().set_gt_label(i) for i in range(3)])
    features, labels = extract_features(model, [batch], pooling)
    assert labels.tolist() == [0, 1, 2]
    return features


def normalised(images):
    return (images.flip(1) - torch.tensor([1., 2, 3]).view(3, 1, 1)
            ) / torch.tensor([2., 4, 8]).view(3, 1, 1)


@torch.no_grad()
def test_a_dmae_without_its_teacher(tmp_path, images):
    cfg = copy.deepcopy(TOY_MODEL)
    cfg['teacher'].update(checkpoint='/no/such/file.pth', allow_random=False)
    model, backbone = save(
        tmp_path, dict(cfg, data_preprocessor=NORMALISE))
    tokens, = backbone(normalised(images), mask=None)
    assert tokens.shape == (3, 17, 24)
    for pooling, wanted in (('mean', tokens[:, 1:].mean(1)),
                            ('cls', tokens[:, 0])):
        np.testing.assert_allclose(
            features_of(model, images, pooling), wanted, rtol=1e-5, atol=1e-6)
    assert image_size(model.backbone) == 32


HIVIT = dict(
    type='MAEHiViT',
    arch=dict(embed_dims=24, depths=[1, 1, 8], num_heads=2),
    img_size=32,
    patch_size=8,
    inner_patches=4,
    out_indices=[7])


@torch.no_grad()
def test_a_hierarchical_student(tmp_path, images):
    model, backbone = save(tmp_path, dict(type='DMAE', backbone=HIVIT))
    assert image_size(model.backbone) == 32
    output, = backbone(images, mask=None)
    assert output.shape == (3, 24, 4, 4)
    np.testing.assert_allclose(
        features_of(model, images), output.mean((2, 3)), rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="pooling='cls'.*MAEHiViT.* no CLS"):
        features_of(model, images, 'cls')
    model.backbone.out_indices = [99]
    with pytest.raises(ValueError, match='returns no features.*out_indices'):
        features_of(model, images)


@torch.no_grad()
def test_models_of_timm(tmp_path, images):
    """Registers are no patches; mmpretrain's backbone hands them out."""
    cfg = timm_student(model_name='vit_small_patch14_reg4_dinov2')
    model, backbone = save(tmp_path, dict(type='DMAE', backbone=cfg))
    tokens, = backbone(images, mask=None)
    assert tokens.shape == (3, 17, 24) and image_size(model.backbone) == 32
    wanted = dict(mean=tokens[:, 1:].mean(1), cls=tokens[:, 0])
    plain = dict(type='TIMMBackbone', model_name=cfg['model_name'],
                 img_size=32, **cfg['model_kwargs'])
    pooled = dict(cfg, type='TimmViT', out_type='cls_token')
    del pooled['mask_ratio']
    for other in (cfg, plain, pooled):
        model, loaded = save(
            tmp_path, dict(type='ImageClassifier', backbone=other))
        loaded.load_state_dict(backbone.state_dict())
        model.backbone.load_state_dict(backbone.state_dict())
        for pooling, feature in wanted.items():
            np.testing.assert_allclose(
                features_of(model, images, pooling), feature, rtol=1e-5,
                atol=1e-6)


@torch.no_grad()
def test_a_classifier_gives_its_patches(tmp_path, images):
    """Though its backbone hands out CLS alone."""
    model, backbone = save(
        tmp_path,
        dict(type='ImageClassifier', backbone=VIT, neck=None, head=None),
        data_preprocessor=dict(num_classes=5, **NORMALISE))
    cls, = backbone(normalised(images))
    np.testing.assert_allclose(
        features_of(model, images, 'cls'), cls, rtol=1e-5, atol=1e-6)
    backbone.out_type = 'raw'
    tokens, = backbone(normalised(images))
    np.testing.assert_allclose(
        features_of(model, images), tokens[:, 1:].mean(1), rtol=1e-5,
        atol=1e-6)


@torch.no_grad()
def test_backbones_that_pool_and_that_take_any_size(tmp_path, images):
    model, backbone = save(
        tmp_path, dict(backbone=dict(VIT, out_type='avg_featmap')))
    np.testing.assert_allclose(
        features_of(model, images), backbone(images)[0], rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="VisionTransformer.*Choose 'mean'"):
        features_of(model, images, 'cls')
    # With counters of batches among its weights, which are integers.
    model, backbone = save(
        tmp_path,
        dict(backbone=dict(type='ResNet', depth=18, base_channels=8)))
    assert image_size(model.backbone) == 224
    np.testing.assert_allclose(
        features_of(model, images),
        backbone(images)[0].mean((2, 3)),
        rtol=1e-5,
        atol=1e-6)


def test_each_module_keeps_its_mode(tmp_path, images):
    model, _ = save(tmp_path, dict(TOY_MODEL))
    model.train()
    model.backbone.layers[1].eval()
    modes = {name: m.training for name, m in model.named_modules()}
    model.data_preprocessor.register_forward_hook(
        lambda *_: seen.append(model.backbone.layers[0].training))
    seen = []
    features_of(model, images)
    assert seen == [False]
    assert modes == {name: m.training for name, m in model.named_modules()}
    assert all(p.grad is None for p in model.parameters())


def test_a_pooling_that_does_not_exist(toy_model):
    with pytest.raises(ValueError, match="pooling='max'.* mean, cls"):
        extract_features(MODELS.build(toy_model), [], pooling='max')


@pytest.mark.parametrize('change, message', [
    (lambda tensors: tensors.pop('backbone.ln1.bias'),
     'model.pth is no checkpoint .*config.py: ln1.bias is missing. Give'),
    (lambda tensors: tensors.update(
        {'backbone.pos_embed': torch.zeros(1, 26, 24)}),
     r'pos_embed has shape \(1, 26, 24\) instead of \(1, 17, 24\)'),
    (lambda tensors: tensors.update({'backbone.x': torch.zeros(1)}),
     'x is unknown'),
    (lambda tensors: tensors['backbone.cls_token'].fill_(float('nan')),
     'cls_token has values that are not finite'),
    (lambda tensors: [tensors.pop(name) for name in list(tensors)
                      if '.layers.3' in name],
     'layers.3.*is missing.* and 7 more'),
    (lambda tensors: [tensors.update({f'neck.{name}': tensors.pop(name)})
                      for name in list(tensors)],
     'model.pth: there is no encoder in it, but only a decoder'),
])
def test_another_checkpoint_is_refused(change, message, tmp_path):
    save(tmp_path, dict(TOY_MODEL))
    tensors = torch.load(tmp_path / 'model.pth')['state_dict']
    change(tensors)
    torch.save(tensors, tmp_path / 'model.pth')
    with pytest.raises(ValueError, match=message):
        FeatureModel(str(tmp_path / 'config.py'), str(tmp_path / 'model.pth'))


def test_models_of_the_zoo_go_by_name(tmp_path):
    backbone = MODELS.build(
        dict(
            type='mmpretrain.VisionTransformer', arch='deit-tiny',
            img_size=224, patch_size=16))
    torch.save(backbone.state_dict(), tmp_path / 'deit.pth')
    model = FeatureModel('deit-tiny_4xb256_in1k', str(tmp_path / 'deit.pth'))
    assert model.data_preprocessor.mean.flatten().tolist() == [
        pytest.approx(value) for value in (123.675, 116.28, 103.53)
    ]
    assert torch.equal(model.backbone.pos_embed, backbone.pos_embed)


@pytest.mark.parametrize('name, error, message', [
    ('resnet50_8xb32_in', ValueError, "Did you mean 'resnet50_8xb32_in1k'"),
    ('???', ValueError, "'.+' is neither a config .*list_models"),
    ('gone.py', FileNotFoundError, "There is no config 'gone.py'"),
    ('gone/folder', FileNotFoundError, 'There is no config'),
])
def test_unknown_models(name, error, message):
    with pytest.raises(error, match=message):
        FeatureModel(name, 'model.pth')


@pytest.mark.parametrize('text, message', [
    ('a = (', 'config.py cannot be read: '),
    ('a = 1', 'config.py has no model.backbone'),
    ('model = dict(backbone=dict(type="NoViT"))',
     'model.backbone of .*config.py cannot be built: KeyError'),
    ('model = dict(backbone=dict(type="VisionTransformer", img_size=(32, 64),'
     'patch_size=16))', 'no checkpoint of'),
])
def test_configs_that_cannot_be_used(text, message, tmp_path):
    save(tmp_path, dict(TOY_MODEL))
    (tmp_path / 'config.py').write_text(text)
    with pytest.raises(ValueError, match=message):
        FeatureModel(str(tmp_path / 'config.py'), str(tmp_path / 'model.pth'))


def test_only_squares(toy_model):
    backbone = MODELS.build(dict(VIT, img_size=(32, 64)))
    with pytest.raises(ValueError, match='32 x 64 pixels. Only square'):
        image_size(backbone)


def test_as_many_patches_of_another_grid(tmp_path):
    """A config of 2 x 8 patches, and a file of 4 x 4."""
    save(tmp_path, dict(type='ImageClassifier', backbone=VIT))
    oblong = dict(VIT, img_size=(16, 64))
    config = str(tmp_path / 'oblong.py')
    Config(dict(model=dict(backbone=oblong))).dump(config)
    path = str(tmp_path / 'model.pth')
    with pytest.raises(ValueError, match='4 x 4 .*2 x 8'):
        FeatureModel(config, path)
    content = torch.load(path)
    content['meta'] = dict(cfg=Config(dict(model=dict(backbone=oblong)))
                           .pretty_text)
    torch.save(content, path)
    FeatureModel(config, path)
    with pytest.raises(ValueError, match='2 x 8 patches .as the config in it'):
        FeatureModel(str(tmp_path / 'config.py'), path)


def test_images_are_read_as_the_training_reads_them(tmp_path):
    """Wherever the config has the loader, and if it has none."""
    path = str(tmp_path / 'config.py')
    loader = dict(type='mmpretrain.LoadImageOrSkip', value_range=(0, 9))
    for dataset, wanted in (
        (dict(pipeline=[dict(type='SeedSample'), loader]), (0, 9)),
        (dict(type='RepeatDataset', dataset=dict(pipeline=[loader])), (0, 9)),
        (dict(pipeline=[dict(type='LoadImageFromFile')]), None)):
        Config(dict(train_dataloader=dict(dataset=dataset))).dump(path)
        assert read_loader(path).value_range == wanted
        changed = read_loader(path, value_range=[1., 2.])
        assert changed.value_range == (1, 2)
    assert read_loader('deit-tiny_4xb256_in1k').value_range is None
