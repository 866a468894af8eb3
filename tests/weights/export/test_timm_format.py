"""timm computes the same from what is exported."""
import pytest
import timm
import torch
from mmengine.config import Config

from dmae_mm.weights import export_checkpoint, read_tensor_file

from tests.toys.models import ROOT

from tests.toys.export_models import (BACKBONES, TOY, assert_close,
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
    assert export_checkpoint(config, checkpoint, dst, 'timm').usage == (
        f"timm.create_model('vit_tiny_patch16_224', checkpoint_path={dst!r})")
    model = timm.create_model('vit_tiny_patch16_224', checkpoint_path=dst)
    images = images_for(backbone)
    assert_close(
        model.eval().forward_features(images), tokens_of(backbone, images))
    assert model(images).shape == (2, 1000) and not model(images).any()


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
        type='ImageClassifier', backbone=backbone, neck=neck, head=head)
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
