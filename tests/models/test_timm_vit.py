"""A ViT of timm as backbone of a classifier, filled from any file of it."""
import copy

import pytest
import safetensors.torch
import timm
import torch
from mmengine.optim import build_optim_wrapper
from mmpretrain.registry import MODELS
from timm.layers import resample_abs_pos_embed

from dmae_mm.host import quietly
from dmae_mm.weights.origin import KEY
from tests.toys.models import TOY_MODEL, randomize, timm_student
from tests.toys.timm_families import FAMILIES, toy_kwargs

KWARGS = timm_student()['model_kwargs']
NAME = 'vit_tiny_patch16_224'


def build(**changes):
    cfg = dict(
        type='TimmViT', model_name=NAME, img_size=32, model_kwargs=KWARGS)
    return MODELS.build(copy.deepcopy(cfg | changes))


def timm_model(img_size=32, **kwargs):
    model = timm.create_model(NAME, img_size=img_size, **KWARGS | kwargs)
    randomize(model)
    return model.eval()


def initialised(path, **changes):
    """From a file, as a runner does it."""
    init_cfg = dict(type='Pretrained', checkpoint=str(path))
    backbone = build(init_cfg=init_cfg, **changes)
    with quietly():
        backbone.init_weights()
    return backbone.eval()


def refused(path, **changes):
    with pytest.raises(ValueError) as error:
        initialised(path, **changes)
    said = str(error.value)
    assert said.startswith('model.backbone.init_cfg.checkpoint: ')
    return said


def save(folder, weights, **beside):
    path = folder / 'weights.pth'
    torch.save(dict(state_dict=weights, **beside) if beside else weights, path)
    return path


def test_types_of_output(images):
    model = timm_model()
    with torch.no_grad():
        tokens = model.forward_features(images)
    patches = tokens[:, 1:]
    for out_type, wanted in dict(
            raw=tokens, cls_token=tokens[:, 0], avg_featmap=patches.mean(1),
            featmap=patches.transpose(1, 2).view(3, 24, 4, 4)).items():
        backbone = build(out_type=out_type).eval()
        backbone.timm_model.load_state_dict(
            {name: tensor for name, tensor in model.state_dict().items()
             if not name.startswith('head')})
        feature, = backbone(images)
        torch.testing.assert_close(feature, wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize('name, out_type', [
    (NAME, 'avg'), ('vit_base_patch16_gap_224', 'cls_token')])
def test_other_types_are_refused(name, out_type):
    with pytest.raises(ValueError, match=f"out_type='{out_type}' does not"):
        build(model_name=name, out_type=out_type)


def test_what_is_frozen_does_not_learn(images):
    model = MODELS.build(
        dict(
            type='ImageClassifier',
            backbone=dict(
                type='TimmViT', model_name=NAME, img_size=32, frozen=True,
                model_kwargs=dict(KWARGS, drop_path_rate=.5)),
            head=dict(type='LinearClsHead', num_classes=5, in_channels=24)))
    model.train()
    assert not model.backbone.timm_model.training and model.head.training
    first, second = (model.extract_feat(images)[0] for _ in range(2))
    assert torch.equal(first, second) and not first.requires_grad
    assert all(name.startswith('head.')
               for name, p in model.named_parameters() if p.requires_grad)


def test_depths_of_the_learning_rate():
    """Of 4 blocks: 1 - 0.5^5 in front of them, 1 behind them."""
    model = MODELS.build(
        dict(
            type='ImageClassifier',
            backbone=dict(
                type='TimmViT',
                model_name='vit_small_patch14_reg4_dinov2',
                img_size=32,
                model_kwargs=KWARGS),
            head=dict(type='LinearClsHead', num_classes=5, in_channels=24)))
    with quietly():
        wrapper = build_optim_wrapper(
            model,
            dict(
                optimizer=dict(type='AdamW', lr=1., weight_decay=.05),
                constructor='mmpretrain.'
                'LearningRateDecayOptimWrapperConstructor',
                paramwise_cfg=dict(layer_decay_rate=.5)))
    rates = {group['param_name']: group['lr']
             for group in wrapper.optimizer.param_groups}
    assert len(rates) == len(list(model.parameters()))
    for name, rate in rates.items():
        own = name.removeprefix('backbone.timm_model.')
        wanted = .5**5
        if own.startswith('blocks.'):
            wanted = .5**(4 - int(own.split('.')[1]))
        elif own.startswith(('norm.', 'head.')):
            wanted = 1.
        assert rate == wanted, name


@pytest.mark.parametrize('kind', ['timm', 'timm training', 'safetensors'])
def test_files_of_timm(tmp_path, images, kind):
    model = timm_model()
    path, weights = tmp_path / 'weights.pth', model.state_dict()
    if kind == 'safetensors':
        path = tmp_path / 'weights.safetensors'
        safetensors.torch.save_file(weights, path)
    else:
        torch.save(weights if kind == 'timm' else dict(
            state_dict=weights, epoch=3), path)
    with torch.no_grad():
        wanted = model.forward_features(images)
        feature, = initialised(path, out_type='raw')(images)
    torch.testing.assert_close(feature, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('whole', [
    dict(TOY_MODEL, backbone=timm_student()), TOY_MODEL,
    dict(
        type='ImageClassifier',
        backbone=dict(
            type='TIMMBackbone', model_name=NAME, img_size=32, **KWARGS))
], ids=['MaskedTimmViT', 'MAEViT', 'TIMMBackbone'])
def test_files_of_openmmlab(tmp_path, images, whole):
    model = MODELS.build(copy.deepcopy(whole))
    randomize(model)
    path = save(tmp_path, model.state_dict(), meta={})
    model.eval()
    with torch.no_grad():
        wanted, = model.extract_feat(images)
        feature, = initialised(path, out_type='raw')(images)
    torch.testing.assert_close(feature, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('family', FAMILIES)
def test_a_student_of_any_family_goes_on(tmp_path, family):
    """From its checkpoint, on a larger grid, by timm's resampling."""
    kwargs = toy_kwargs(family)
    del kwargs['num_classes']
    cfg = dict(model_name=FAMILIES[family], model_kwargs=dict(kwargs, depth=2),
               img_size=kwargs.pop('img_size'))
    del cfg['model_kwargs']['img_size']
    student = MODELS.build(dict(cfg, type='MaskedTimmViT'))
    randomize(student)
    path = save(tmp_path, {
        f'backbone.{name}': tensor
        for name, tensor in student.state_dict().items()}, meta={})
    backbone = initialised(path, **cfg)
    assert backbone.state_dict().keys() == student.state_dict().keys()
    for name, tensor in student.state_dict().items():
        assert torch.equal(backbone.state_dict()[name], tensor), name
    cfg['img_size'] = 6 * cfg['img_size'] // 4
    larger = initialised(path, **cfg)
    student.timm_model.set_input_size(img_size=(cfg['img_size'], ) * 2)
    for name, tensor in student.timm_model.state_dict().items():
        torch.testing.assert_close(
            larger.timm_model.state_dict()[name], tensor)


def test_positions_of_said_grids(tmp_path):
    """2 x 8 patches for 4 x 4, as many: the file has to say so."""
    weights = timm_model(img_size=(16, 64), num_classes=0).state_dict()
    said = {KEY: dict(img_size=[16, 64])}
    given = weights['pos_embed']
    square = initialised(save(tmp_path, weights, meta=said))
    torch.testing.assert_close(
        square.timm_model.pos_embed,
        resample_abs_pos_embed(given, (4, 4), (2, 8)))
    oblong = initialised(
        save(tmp_path, weights, meta=said), img_size=(16, 64))
    assert torch.equal(oblong.timm_model.pos_embed, given)
    assert 'positions of 4 x 4 patches (a square, since' in refused(
        save(tmp_path, weights), img_size=(16, 64))
    weights['pos_embed'] = given[:, :16]  # CLS and 15
    assert 'its positions are of 15 patches, which are no square' in refused(
        save(tmp_path, weights))


@pytest.mark.parametrize('change, said', [
    (lambda w: w.pop('blocks.2.norm1.weight'),
     'blocks.2.norm1.weight is missing'),
    (lambda w: w.update({'blocks.4.norm1.weight': torch.ones(24)}),
     'blocks.4.norm1.weight is unknown'),
    (lambda w: w.update(cls_token=torch.ones(1, 1, 25)),
     r'cls_token has shape \(1, 1, 25\)'),
    (lambda w: w.update(cls_token=torch.full((1, 1, 24), torch.nan)),
     'cls_token has values that are not finite'),
    (lambda w: w.update(reg_token=torch.ones(1, 4, 24)),
     'The student checkpoint .* has 4 register tokens'),
    (lambda w: w.update({'patch_embed.proj.weight': torch.ones(24, 3, 4, 4)}),
     'patch_embed.proj.weight has shape'),
])
def test_what_does_not_fit_is_refused(tmp_path, change, said):
    weights = timm_model().state_dict()
    change(weights)
    path = save(tmp_path, weights)
    with pytest.raises(ValueError, match=said):
        initialised(path)


def test_other_heads_are_refused(tmp_path):
    path = save(tmp_path, timm_model().state_dict(),
                meta={KEY: dict(num_heads=3)})
    assert 'num_heads=3, but the backbone has num_heads=2' in refused(path)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(
            FileNotFoundError, match='model.backbone.init_cfg.checkpoint'):
        initialised(tmp_path / 'none.pth')
