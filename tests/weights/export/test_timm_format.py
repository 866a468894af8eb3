"""timm computes the same from what is exported."""
import pytest
import timm
import torch
from mmengine.config import Config
from timm.layers import resample_abs_pos_embed

from dmae_mm.weights import export_checkpoint, read_tensor_file
from dmae_mm.weights.origin import origin_of

from tests.toys.models import ROOT

from tests.toys.export_models import (BACKBONES, MEAN, STD, TOY, assert_close,
                                      assert_equal, build, images_for, refused,
                                      run, state_of, timm_arguments, tokens_of,
                                      write)

pytestmark = pytest.mark.filterwarnings(  # of mmpretrain, about its own DeiT3
    'ignore:The `use_layer_scale`:UserWarning')


@pytest.mark.parametrize('ending', ['pth', 'safetensors'])
@pytest.mark.parametrize('kind', BACKBONES)
def test_to_timm_and_back(tmp_path, kind, ending):
    config, checkpoint, backbone = write(tmp_path, BACKBONES[kind])
    in_timm = str(tmp_path / f'timm.{ending}')
    back = str(tmp_path / f'back.{ending}')
    usage = export_checkpoint(config, checkpoint, in_timm, 'timm').usage
    model, images = run(usage), images_for(backbone)
    tokens = model.forward_features(images)
    if backbone.out_type == 'avg_featmap':
        assert_close(
            model.forward_head(tokens, pre_logits=True), backbone(images)[0])
    assert_close(tokens, tokens_of(backbone, images))

    name, kwargs = timm_arguments(usage)
    exported = export_checkpoint(
        name, in_timm, back, 'mmpretrain', timm_kwargs=kwargs)
    assert exported.left_out == ['head.*']
    assert_equal(state_of(back), state_of(checkpoint))


def test_norms_of_another_epsilon(tmp_path):
    """A small one would go unnoticed in most models, but is named."""
    config, checkpoint, backbone = write(
        tmp_path,
        dict(TOY, type='VisionTransformer', norm_cfg=dict(type='LN', eps=.1)))
    usage = export_checkpoint(config, checkpoint, str(tmp_path / 'timm.pth'),
                              'timm').usage
    assert 'norm_layer=functools.partial(torch.nn.LayerNorm, eps=0.1)' in usage
    images = images_for(backbone)
    assert_close(
        run(usage).forward_features(images), tokens_of(backbone, images))


def test_student_of_a_recipe_loads_as_vit_tiny(tmp_path):
    """At its real size, by the line that every user of timm knows."""
    config = str(ROOT / 'configs' / 'dmae' / 'vit-t_dmae_in1k.py')
    backbone = build(Config.fromfile(config).model.backbone)
    checkpoint, dst = str(tmp_path / 'epoch.pth'), str(tmp_path / 'vit-t.pth')
    torch.save(
        {f'backbone.{k}': v for k, v in backbone.state_dict().items()},
        checkpoint)
    usage = export_checkpoint(config, checkpoint, dst, 'timm').usage
    source = dict(
        file=dst, input_size=(3, 224, 224), mean=(.485, .456, .406),
        std=(.229, .224, .225), num_classes=1000, interpolation='bicubic',
        crop_pct=1., crop_mode='squash')
    assert usage == ("timm.create_model('vit_tiny_patch16_224', "
                     'pretrained=True, '
                     f'pretrained_cfg_overlay={source!r})')
    by_path = timm.create_model('vit_tiny_patch16_224', checkpoint_path=dst)
    model = run(usage)
    assert_equal(model.state_dict(), by_path.state_dict())
    images = images_for(backbone)
    assert_close(
        model.eval().forward_features(images), tokens_of(backbone, images))
    assert model(images).shape == (2, 1000) and not model(images).any()


@pytest.mark.parametrize('ending', ['pth', 'safetensors'])
@pytest.mark.parametrize('kind', BACKBONES)
def test_images_are_those_of_the_training(tmp_path, kind, ending):
    config, checkpoint, backbone = write(tmp_path, BACKBONES[kind])
    dst = str(tmp_path / f'timm.{ending}')
    usage = export_checkpoint(config, checkpoint, dst, 'timm').usage
    images = timm.data.resolve_model_data_config(run(usage))
    channels = backbone.patch_embed.projection.in_channels
    assert images['input_size'] == (channels, *backbone.img_size)
    # Of values from 0 to 1.
    assert images['mean'] == (.2, .4, .6)[:channels]
    assert images['std'] == (.1, .2, .3)[:channels]


def test_one_value_for_all_channels(tmp_path):
    config, checkpoint, _ = write(tmp_path, BACKBONES['MAEViT'])
    usage = export_checkpoint(
        config, checkpoint, str(tmp_path / 'timm.pth'), 'timm',
        cfg_options={'model.data_preprocessor': dict(mean=[51], std=[102])}
    ).usage
    images = timm.data.resolve_model_data_config(run(usage))
    assert images['mean'] == (.2, ) * 3 and images['std'] == (.4, ) * 3


def test_images_that_nobody_normalises(tmp_path):
    config, checkpoint, _ = write(tmp_path, BACKBONES['MAEViT'])
    exported = export_checkpoint(
        config, checkpoint, str(tmp_path / 'timm.pth'), 'timm', num_classes=0,
        cfg_options={'model.data_preprocessor': None})
    images = timm.data.resolve_model_data_config(run(exported.usage))
    normalise = timm.data.create_transform(**images).transforms[-1]
    torch.testing.assert_close(
        normalise(torch.ones(3, 1, 1)), torch.full((3, 1, 1), 255.))
    assert 'how images are normalised' in exported.notes[0]
    assert 'from 0 to 255 stay as they are' in exported.notes[1]


def test_blue_first_is_said(tmp_path):
    config, checkpoint, _ = write(tmp_path, BACKBONES['MAEViT'])
    exported = export_checkpoint(
        config, checkpoint, str(tmp_path / 'timm.pth'), 'timm', num_classes=0,
        cfg_options={'model.data_preprocessor.to_rgb': False})
    assert 'BGR, and timm gives RGB' in exported.notes[0]


@pytest.mark.parametrize('size', [64, (16, 64), (64, 16)])
@pytest.mark.parametrize('kind', ['MAEViT', 'no CLS', 'DeiT3'])
def test_the_line_with_another_size(tmp_path, kind, size):
    """Also one of as many patches: timm resamples from the grid that the
    line tells it."""
    config, checkpoint, backbone = write(tmp_path, BACKBONES[kind])
    usage = export_checkpoint(config, checkpoint, str(tmp_path / 'timm.pth'),
                              'timm').usage
    model = run(usage.replace('img_size=32', f'img_size={size}'))
    grid = (8, 8) if size == 64 else (size[0] // 8, size[1] // 8)
    assert model.patch_embed.grid_size == grid
    given = backbone.pos_embed.detach()
    prefix = given.shape[1] - 16
    wanted = resample_abs_pos_embed(
        given, list(grid), [4, 4], num_prefix_tokens=prefix)
    torch.testing.assert_close(model.pos_embed, wanted)
    images = timm.data.resolve_model_data_config(model)
    assert images['mean'] == (.2, .4, .6)


@pytest.mark.parametrize('to', ['timm', 'mmpretrain', 'mmseg'])
@pytest.mark.parametrize('size', [64, (16, 64)])
def test_written_for_another_size(tmp_path, to, size):
    config, checkpoint, backbone = write(tmp_path, BACKBONES['MAEViT'])
    dst = str(tmp_path / 'dst.pth')
    exported = export_checkpoint(config, checkpoint, dst, to, img_size=size)
    given = backbone.pos_embed.detach()
    grid = (8, 8) if size == 64 else (2, 8)
    found = state_of(dst)['backbone.' * (to == 'mmpretrain') + 'pos_embed']
    patches = torch.nn.functional.interpolate(
        given[0, 1:].T.reshape(1, 24, 4, 4), grid, mode='bicubic',
        align_corners=False).flatten(2).transpose(1, 2)
    torch.testing.assert_close(found, torch.cat([given[:, :1], patches], 1))
    origin = origin_of(read_tensor_file(dst).meta)
    assert origin.grid(grid[0] * grid[1]) == grid and origin.num_heads == 2
    assert origin.mean == (51, 102, 153) and origin.to_rgb is True
    if to == 'timm':
        images = timm.data.resolve_model_data_config(run(exported.usage))
        assert images['input_size'][1:] == origin.img_size


def test_a_size_that_the_file_does_not_have(tmp_path):
    config, checkpoint, _ = write(tmp_path, BACKBONES['MAEViT'])
    for to in ('timm', 'mmpretrain', 'mmseg'):
        error = refused(
            config, checkpoint, tmp_path / 'dst.pth', to,
            cfg_options={'model.backbone.img_size': (16, 64)})
        assert 'pos_embed has positions of 4 x 4 patches' in error
        assert '2 x 8' in error and '--img-size' in error
    # It may say that it has.
    content = torch.load(checkpoint)
    content['meta'] = dict(trained_as=dict(img_size=(16, 64)))
    torch.save(content, checkpoint)
    usage = export_checkpoint(
        config, checkpoint, str(tmp_path / 'dst.pth'), 'timm',
        cfg_options={'model.backbone.img_size': (16, 64)}).usage
    assert run(usage).patch_embed.grid_size == (2, 8)
    assert '2 x 8 patches (as its metadata' in refused(
        config, checkpoint, tmp_path / 'other.pth', 'timm')


@pytest.mark.parametrize('num_classes, classes', [(None, 1000), (7, 7),
                                                  (0, 0)])
def test_classifier_that_nobody_trained(tmp_path, num_classes, classes):
    config, checkpoint, _ = write(tmp_path, BACKBONES['MAEViT'])
    dst = str(tmp_path / 'timm.pth')
    exported = export_checkpoint(
        config, checkpoint, dst, 'timm', num_classes=num_classes)
    note = f'head: zeros, not trained, {classes} classes'
    assert exported.notes == [note] * (classes > 0)
    assert read_tensor_file(dst).meta['notes'] == exported.notes
    model = run(exported.usage)
    assert model.num_classes == classes
    if classes:
        assert not model.head.weight.any() and not model.head.bias.any()


def write_classifier(folder, backbone, head, neck=None):
    cfg = dict(
        type='ImageClassifier', backbone=backbone, neck=neck, head=head,
        data_preprocessor=dict(mean=MEAN, std=STD, to_rgb=True))
    config, checkpoint = folder / 'config.py', folder / 'source.pth'
    config.write_text(f'model = {cfg!r}')
    model = build(cfg)
    torch.save(dict(state_dict=model.state_dict()), checkpoint)
    return str(config), str(checkpoint), model


HEADS = {
    name: dict(type=name, num_classes=5, in_channels=24)
    for name in ('LinearClsHead', 'VisionTransformerClsHead')
}


@pytest.mark.parametrize('kind', ['average pooling', 'VisionTransformer'])
@pytest.mark.parametrize('head', HEADS)
def test_trained_classifier(tmp_path, kind, head):
    """As fine-tuned by configs/benchmarks: equal logits."""
    config, checkpoint, classifier = write_classifier(
        tmp_path, BACKBONES[kind], HEADS[head])
    exported = export_checkpoint(config, checkpoint,
                                 str(tmp_path / 'timm.pth'), 'timm')
    assert exported.left_out == []
    assert exported.notes == ['head: trained, 5 classes']
    images = images_for(classifier.backbone)
    logits = run(exported.usage)(images)
    assert_close(logits, classifier(images, mode='tensor'))
    assert logits.std() > .01

    exported = export_checkpoint(
        config,
        checkpoint,
        str(tmp_path / 'bare.pth'),
        'timm',
        num_classes=0)
    assert exported.left_out == ['head.*'] and exported.notes == []
    assert run(exported.usage).num_classes == 0


@pytest.mark.parametrize('backbone, head, neck, num_classes, message', [
    ({}, HEADS['LinearClsHead'],
     dict(type='ClsBatchNormNeck', input_features=24), None,
     'a ClsBatchNormNeck (model.neck) comes between'),
    ({}, dict(HEADS['VisionTransformerClsHead'], hidden_dim=8), None, None,
     'a VisionTransformerClsHead that is more than a linear layer'),
    (dict(out_type='raw'), HEADS['LinearClsHead'], None, None,
     "the classifier gets out_type='raw'"),
    ({}, HEADS['LinearClsHead'], None, 7,
     'num_classes=7, but the trained classifier has 5 classes'),
])
def test_classifier_that_timm_cannot_express(tmp_path, backbone, head, neck,
                                             num_classes, message):
    config, checkpoint, _ = write_classifier(
        tmp_path, dict(BACKBONES['VisionTransformer'], **backbone), head, neck)
    dst = tmp_path / 'timm.pth'
    arguments = config, checkpoint, str(dst), 'timm'
    assert message in refused(*arguments, num_classes=num_classes)
    assert not dst.exists()
    export_checkpoint(*arguments, num_classes=0)
