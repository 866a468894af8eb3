"""Original files of DINO, DINOv2, DINOv3, EUPE, iBOT and MoCo v3 teach.

None of them was at hand: files with their names are written from timm's
models, as timm's own filters and transformers' scripts of conversion document
these names.
"""
import re

import pytest
import timm
import torch
from mmpretrain.registry import MODELS

from dmae_mm.models.student_input import StudentInput
from dmae_mm.weights import read_tensor_file
from dmae_mm.weights.formats import translate
from dmae_mm.weights.origin import IMAGENET_MEAN
from tests.toys.converted import (BLOCKS, KWARGS, assert_features, big_file,
                                  saved, teacher_of, timm_features)
from tests.toys.models import randomize

V2 = 'vit_small_patch14_dinov2'
V2_REG = 'vit_small_patch14_reg4_dinov2'
V2_GIANT = 'vit_giant_patch14_dinov2'
V3 = 'vit_small_patch16_dinov3'
V3_QKVB = 'vit_small_patch16_dinov3_qkvb'
V3_GATED = 'vit_small_plus_patch16_dinov3_qkvb'
STUDENT = StudentInput((32, 32), (4, 4), 3, [1.] * 3, [2.] * 3)
# Rotary embeddings of 8 numbers want heads of a multiple of 4.
PERIODS = 100**torch.tensor([0., .25, .5, .75])


def toy(name, **kwargs):
    model = timm.create_model(name, **dict(KWARGS, **kwargs)).eval()
    randomize(model)
    return model


def dinov2_file(model):
    """FAIR's names for timm's weights."""
    weights = model.state_dict()
    if 'reg_token' in weights:
        position = .3 * torch.ones_like(weights['cls_token'])
        weights['register_tokens'] = weights.pop('reg_token')
        weights['cls_token'] = weights['cls_token'] - position
        weights['pos_embed'] = torch.cat([position, weights['pos_embed']], 1)
    if weights['blocks.0.mlp.fc1.weight'].shape[0] != 4 * 32:  # SwiGLU
        weights = {
            name.replace('mlp.fc1', 'mlp.w12').replace('mlp.fc2', 'mlp.w3'):
            tensor for name, tensor in weights.items()
        }
    return {**weights, 'mask_token': torch.zeros(1, 32)}


def dinov3_file(model, mask=True):
    """FAIR's names: the bias of keys is there, and hidden by a mask."""
    weights = {}
    swaps = [('.gamma_', '.ls'), ('reg_token', 'storage_tokens'),
             ('fc1_g', 'w1'), ('fc1_x', 'w2')]
    if any('fc1_g' in name for name in model.state_dict()):
        swaps.append(('mlp.fc2', 'mlp.w3'))
    for name, tensor in model.state_dict().items():
        for old, new in swaps:
            name = name.replace(old, new)
        name = re.sub(r'\.ls(\d)$', r'.ls\1.gamma', name)
        weights[name] = tensor
    for block in range(3):
        at = f'blocks.{block}.attn.'
        zeros = torch.zeros(32)
        query, value = (weights.pop(f'{at}{kind}_bias', zeros)
                        for kind in 'qv')
        key = torch.full([32], 7.) if mask else zeros
        weights[f'{at}qkv.bias'] = torch.cat([query, key, value])
        if mask:
            weights[f'{at}qkv.bias_mask'] = torch.cat(
                [zeros + 1, zeros, zeros + 1])
    return {
        **weights,
        'rope_embed.periods': PERIODS.bfloat16(),
        'mask_token': torch.zeros(1, 32),
    }


def chunked(weights):
    """Blocks in groups of two, as training with FSDP names them."""
    return {
        re.sub(r'^blocks\.(\d+)',
               lambda found: f'blocks.{int(found[1]) // 2}.{found[1]}', name):
        tensor for name, tensor in weights.items()
    }


def self_distilled(weights, **others):
    """As DINO's code saves a run: the student's weights are others."""
    other = {name: torch.zeros_like(t) for name, t in weights.items()}
    head = {'dino_head.last_layer.weight_v': torch.zeros(2, 2)}
    return dict(
        student={f'module.backbone.{n}': t for n, t in other.items()} | head,
        teacher={f'backbone.{n}': t for n, t in weights.items()} | head,
        epoch=3,
        optimizer=dict(state={}, param_groups=[]),
        **others)


def in_one(weights):
    """As DINOv2's code saves a run."""
    other = {name: torch.zeros_like(t) for name, t in weights.items()}
    return dict(
        model={f'student.backbone.{n}': t for n, t in other.items()}
        | {f'teacher.backbone.{n}': t for n, t in weights.items()}
        | {'student.dino_head.mlp.0.weight': torch.zeros(2, 2)},
        iteration=7)


WRAPPINGS = dict(
    plain=dict, chunked=chunked, teacher=self_distilled, model=in_one,
    chunked_model=lambda weights: in_one(chunked(weights)),
    lightning=lambda weights: dict(
        state_dict={f'model.encoder.{n}': t for n, t in weights.items()}),
)  # yapf: disable


@pytest.mark.parametrize('wrapping', WRAPPINGS)
@pytest.mark.parametrize('name', [V2, V2_REG, V2_GIANT])
def test_dinov2(tmp_path, name, wrapping):
    model = toy(name)
    path = saved(tmp_path, WRAPPINGS[wrapping](dinov2_file(model)))
    assert_features(teacher_of(path, name), timm_features(model))


@pytest.mark.parametrize('wrapping', ['plain', 'teacher'])
@pytest.mark.parametrize('mask', [True, False])
@pytest.mark.parametrize('name', [V3, V3_QKVB, V3_GATED])
def test_dinov3(tmp_path, name, mask, wrapping):
    model = toy(name)
    path = saved(tmp_path, WRAPPINGS[wrapping](dinov3_file(model, mask)))
    assert_features(teacher_of(path, name), timm_features(model))


def test_eupe(tmp_path):
    """DINOv3's names and heads of its own distillation."""
    name = 'vit_tiny_patch16_dinov3_qkvb.eupe_lvd1689m'
    model = toy(name)
    weights = dinov3_file(model)
    weights['projectors.dinov3.0.weight'] = torch.zeros(2, 2)
    teacher = teacher_of(saved(tmp_path, weights), name)
    assert_features(teacher, timm_features(model))


def test_zero_biases_of_dinov3_are_no_biases(tmp_path):
    """timm has two models; the file's biases are all zero."""
    path = saved(tmp_path, dinov3_file(toy(V3)))
    for name in (V3, V3_QKVB):
        model = timm.create_model(name, **KWARGS).eval()
        weights = toy(V3).state_dict()
        model.load_state_dict(weights, strict=False)
        assert_features(teacher_of(path, name), timm_features(model))


def test_biases_are_not_dropped(tmp_path):
    """timm's own filter drops them without an error."""
    path = saved(tmp_path, dinov3_file(toy(V3_QKVB)))
    with pytest.raises(ValueError, match='blocks.0.attn.q_bias is unknown'):
        teacher_of(path, V3)


@pytest.mark.parametrize('change, message', [
    ({'blocks.1.attn.qkv.bias_mask': None}, 'keys of blocks.1.attn.qkv.bias'),
    ({'blocks.1.attn.qkv.bias_mask': torch.full([96], float('nan'))},
     'keys of blocks.1.attn.qkv.bias'),
    ({'rope_embed.periods': PERIODS * 2}, 'periods from 2 to 63.2'),
    ({'rope_embed.periods': 100**torch.tensor([0., .5])}, 'heads'),
    ({'blocks.1.norm1.bias': None}, 'blocks.1.norm1.bias is missing'),
    ({'blocks.1.attn.wq.weight': torch.zeros(2)}, 'unknown: blocks.1.attn.w'),
    ({'storage_tokens': torch.zeros(1, 3, 32)}, '3 register'),
    ({'cls_token': None}, "cannot be converted .KeyError: 'cls_token'"),
    ({'blocks.1.attn.qkv.bias_mask': torch.ones(5)}, 'cannot be converted'),
])
def test_illegal_dinov3(tmp_path, change, message):
    weights = {**dinov3_file(toy(V3_QKVB)), **change}
    weights = {name: t for name, t in weights.items() if t is not None}
    with pytest.raises(ValueError, match=message):
        teacher_of(saved(tmp_path, weights), V3_QKVB)


@pytest.mark.parametrize('change, message', [
    ({'pos_embed': torch.zeros(1, 10, 32)}, r'pos_embed has shape \(1, 10'),
    ({'blocks.1.ls1.gamma': None}, 'blocks.1.ls1.gamma is missing'),
    ({'blocks.1.ls3.gamma': torch.zeros(2)}, 'unknown: blocks.1.ls3.gamma'),
    ({'norm.weight': torch.zeros(2), 'blocks.0.norm1.weight': torch.full(
        [32], float('inf'))}, 'not finite'),
    ({'register_tokens': torch.zeros(1, 4, 32)}, '4 register tokens'),
    ({'register_tokens': torch.zeros(1, 4, 32), 'pos_embed': None},
     "cannot be converted .KeyError: 'pos_embed'"),
])
def test_illegal_dinov2(tmp_path, change, message):
    weights = {**dinov2_file(toy(V2)), **change}
    weights = {name: t for name, t in weights.items() if t is not None}
    with pytest.raises(ValueError, match=message):
        teacher_of(saved(tmp_path, weights), V2)


def plain(**others):
    model = toy('vit_small_patch16_224.dino')
    weights = model.state_dict()
    return model, {**weights, **others}


def moco(weights):
    other = {name: torch.zeros_like(t) for name, t in weights.items()}
    return dict(
        state_dict={f'module.base_encoder.{n}': t for n, t in weights.items()}
        | {f'module.momentum_encoder.{n}': t for n, t in other.items()}
        | {'module.predictor.0.weight': torch.zeros(2, 2)})


def dino(weights):
    found = self_distilled(weights)
    for network in ('teacher', 'student'):
        found[network]['head.last_layer.weight_g'] = torch.zeros(2, 1)
    return found


@pytest.mark.parametrize('wrapping, others', [
    (dino, {}),
    (moco, {'head.0.weight': torch.zeros(2, 32)}),
    (self_distilled, {'masked_embed': torch.zeros(1, 32)}),
    (dict, {'masked_embed': torch.zeros(1, 32)}),
], ids=['DINO', 'MoCo v3', 'iBOT run', 'iBOT'])
def test_plain_ones(tmp_path, wrapping, others):
    """timm says 0.5 of this name; these had ImageNet's mean."""
    model, weights = plain(**others)
    path = saved(tmp_path, wrapping(weights))
    name = 'vit_small_patch16_224.augreg_in21k'
    assert_features(teacher_of(path, name), timm_features(model))
    teacher = teacher_of(path, name, student_input=STUDENT)
    assert tuple(teacher.image_matcher.mean) == IMAGENET_MEAN


def test_a_prefix_alone_does_not_tell_the_normalisation(tmp_path):
    """So timm's description of the name counts, or what the file says."""
    _, weights = plain()
    content = dict(state_dict={f'encoder.{n}': t for n, t in weights.items()})
    name = 'vit_small_patch16_224.augreg_in21k'
    teacher = teacher_of(saved(tmp_path, content), name, student_input=STUDENT)
    assert teacher.image_matcher.mean[0] == 127.5
    content['meta'] = dict(trained_as=dict(mean=[3.] * 3, std=[4.] * 3))
    teacher = teacher_of(saved(tmp_path, content), name, student_input=STUDENT)
    assert teacher.image_matcher.mean[0] == 3.


@pytest.mark.parametrize('name, weights, mean', [
    (V2, lambda: dinov2_file(toy(V2)), IMAGENET_MEAN[0]),
    # The name says nothing of DINOv2: 0.5.
    ('vit_base_patch16_224', lambda: dinov2_file(toy(V2)), IMAGENET_MEAN[0]),
    (V3, lambda: dinov3_file(toy(V3)), IMAGENET_MEAN[0]),
    ('vit_large_patch16_dinov3.sat493m', lambda: dinov3_file(toy(V3)),
     .43 * 255),
])
def test_whose_mean_and_std(tmp_path, name, weights, mean):
    """DINOv3 for satellite images has the same names: model_name tells."""
    kwargs = dict(KWARGS, init_values=1.)
    path = saved(tmp_path, weights())
    teacher = teacher_of(path, name, kwargs, student_input=STUDENT)
    assert teacher.image_matcher.mean[0] == pytest.approx(mean)


def test_eupe_is_never_of_satellites(tmp_path):
    weights = dinov3_file(toy(V3))
    weights['projectors.a.weight'] = torch.zeros(2)
    teacher = teacher_of(
        saved(tmp_path, weights),
        'vit_large_patch16_dinov3.sat493m',
        student_input=STUDENT)
    assert tuple(teacher.image_matcher.mean) == IMAGENET_MEAN


def test_the_normalisation_can_be_given(tmp_path):
    path = saved(tmp_path, dinov2_file(toy(V2)))
    teacher = teacher_of(path, V2, student_input=STUDENT, mean=[9.] * 3,
                         std=[8.] * 3)  # yapf: disable
    assert list(teacher.image_matcher.mean) == [9.] * 3


def test_another_grid(tmp_path):
    """37 x 37 positions of DINOv2 meet the student's grid as timm fits
    them."""
    kwargs = dict(KWARGS, img_size=7 * 8)
    model = toy(V2_REG, **kwargs)
    path = saved(tmp_path, dinov2_file(model))
    teacher = teacher_of(
        path, V2_REG, kwargs,
        student_input=StudentInput((16, 20), (4, 5), 3))  # yapf: disable
    model.set_input_size(img_size=(32, 40))
    images = torch.randn(2, 3, 32, 40)
    wanted = timm_features(model, images)
    ids_keep = torch.arange(20).expand(2, -1)
    for feature, other in zip(
            teacher.extract_features(images, ids_keep), wanted):
        torch.testing.assert_close(feature, other, rtol=1e-5, atol=1e-5)


def test_dinov2_in_mmpretrain(tmp_path):
    """Its VisionTransformer with layer scale computes the same."""
    model = toy(V2)
    teacher = MODELS.build(
        dict(
            type='MMPretrainTeacher',
            backbone=dict(
                type='VisionTransformer',
                arch=dict(embed_dims=32, num_layers=3, num_heads=2,
                          feedforward_channels=128),
                img_size=32, patch_size=8, layer_scale_init_value=1.),
            checkpoint=saved(tmp_path, in_one(dinov2_file(model))),
            aligned_blocks=BLOCKS))  # yapf: disable
    teacher.init_weights()
    assert_features(teacher, timm_features(model))


def test_several_networks_are_not_chosen_from(tmp_path):
    _, weights = plain()
    content = {f'{part}.{name}': tensor for part in ('left', 'right')
               for name, tensor in weights.items()}  # yapf: disable
    with pytest.raises(ValueError, match="several vision transformers.*'left"
                       ".', 'right.'.*Save one"):
        teacher_of(saved(tmp_path, content), 'vit_small_patch16_224')


@pytest.mark.parametrize('name, periods', [
    (V2, None), ('vit_large_patch14_reg4_dinov2', None),
    ('vit_giant_patch14_reg4_dinov2', None), ('vit_base_patch16_dinov3', 16),
    ('vit_small_plus_patch16_dinov3', 16),
    ('vit_huge_plus_patch16_dinov3', 16)])
def test_which_model_of_timm_it_is(name, periods):
    with torch.device('meta'):
        model = timm.create_model(name)
    file = big_file(model)
    tensors = dict(file.tensors)
    file.tensors.clear()
    if periods:
        for key, tensor in tensors.items():
            key = re.sub(r'\.gamma_(\d)', r'.ls\1.gamma', key)
            for old, new in (('reg_token', 'storage_tokens'),
                             ('fc1_g', 'w1'), ('fc1_x', 'w2')):
                key = key.replace(old, new)
            file.tensors[key] = tensor
        file.tensors['rope_embed.periods'] = 100**(
            torch.arange(periods) / periods)
    else:
        file.tensors.update(tensors, mask_token=torch.zeros(1, 1))
        if 'reg_token' in tensors:
            file.tensors['register_tokens'] = file.tensors.pop('reg_token')
            file.tensors['pos_embed'] = torch.zeros(()).expand(
                1, 37 * 37 + 1, model.embed_dim)
    found = translate(file).format
    assert found.model_name == name
    assert found.model_kwargs == ({} if periods else dict(img_size=518))
    if periods:
        assert found.origin.num_heads == model.embed_dim // 64


def test_timms_own_files_are_left_alone(tmp_path):
    for name in (V2_REG, V3_QKVB, 'vit_small_patch16_224'):
        file = read_tensor_file(saved(tmp_path, toy(name).state_dict()))
        assert translate(file) is file
