"""C-RADIO v3 and v4 teach, with positions fitted as RADIO does.

No original was at hand: timm's own filter, which converts the originals, is
the reference.
"""
from functools import partial

import pytest
import timm
import torch
from timm.models.vision_transformer import checkpoint_filter_fn

from dmae_mm.models.student_input import StudentInput
from tests.toys.converted import (KWARGS, assert_features, saved, teacher_of,
                                  timm_features)
from tests.toys.models import randomize

V3 = 'vit_base_patch16_radio_v3'
V4 = 'vit_so400m_patch16_radio_v4'
ALIGNED = {V3: True, 'vit_large_patch16_radio_v3': False, V4: False}
AT = 'radio_model.model.'


def toy(name, **kwargs):
    model = timm.create_model(
        name, **dict(KWARGS, mlp_ratio=4, **kwargs)).eval()
    randomize(model)
    return model


def radio_file(name, grandma=False):
    """RADIO's names; positions of 6 x 6 patches."""
    weights = toy(name).state_dict()
    generator = torch.Generator().manual_seed(2)
    weights.pop('patch_embed.proj.bias')
    patches = weights.pop('patch_embed.proj.weight')
    weights.update({
        'patch_generator.embedder.weight': patches.flatten(1),
        'patch_generator.cls_token.token': torch.cat(
            [weights.pop('cls_token'), weights.pop('reg_token')], 1)[0],
        'patch_generator.pos_embed': torch.randn(
            1, 36, 32, generator=generator)})  # yapf: disable
    weights.pop('pos_embed')
    if grandma:
        weights = {n.replace('.gamma', '.grandma'): t
                   for n, t in weights.items()}  # yapf: disable
    return {
        **{f'{AT}{n}': t for n, t in weights.items()},
        'radio_model.input_conditioner.norm_mean': torch.tensor(
            [.1, .2, .3]).view(3, 1, 1),
        'radio_model.input_conditioner.norm_std': torch.tensor(
            [.5, .6, .7]).view(3, 1, 1),
        'radio_model.summary_idxs': torch.tensor([0]),
    }  # yapf: disable


@pytest.mark.parametrize('size', [(32, 32), (24, 40)])
@pytest.mark.parametrize('name', ALIGNED)
def test_features_are_timms(tmp_path, name, size):
    grandma = name == V3
    weights = radio_file(name, grandma)
    model = toy(name, img_size=size) if size != (32, 32) else toy(name)
    convert = partial(
        checkpoint_filter_fn,
        interpolation='bilinear',
        antialias=False,
        align_corners=ALIGNED[name])
    model.load_state_dict(convert(dict(weights), model))
    images = torch.randn(2, 3, *size)
    grid = (size[0] // 8, size[1] // 8)
    teacher = teacher_of(
        saved(tmp_path, weights), name, dict(KWARGS, mlp_ratio=4),
        student_input=StudentInput(size, grid, 3))  # yapf: disable
    assert_features(teacher, timm_features(model, images), images)


def test_a_teacher_of_its_own_size(tmp_path):
    model = toy(V4)
    weights = radio_file(V4)
    model.load_state_dict(
        checkpoint_filter_fn(dict(weights), model, interpolation='bilinear',
                             antialias=False, align_corners=False))
    teacher = teacher_of(saved(tmp_path, weights), V4,
                         dict(KWARGS, mlp_ratio=4))
    assert_features(teacher, timm_features(model))


def test_its_conditioner_says_the_normalisation(tmp_path):
    student = StudentInput((32, 32), (4, 4), 3, [1.] * 3, [2.] * 3)
    weights = radio_file(V3)
    kwargs = dict(KWARGS, mlp_ratio=4)
    path = saved(tmp_path, weights)
    teacher = teacher_of(path, V3, kwargs, student_input=student)
    assert list(teacher.image_matcher.mean) == pytest.approx([25.5, 51, 76.5])
    assert list(teacher.image_matcher.std) == pytest.approx(
        [127.5, 153, 178.5])
    path = saved(
        tmp_path, {n: t for n, t in weights.items() if 'conditioner' not in n})
    teacher = teacher_of(path, V3, kwargs, student_input=student)
    assert teacher.image_matcher.mean[0] == pytest.approx(122.77, abs=.01)


@pytest.mark.parametrize('change, message', [
    ({f'{AT}patch_generator.video_embedder.weight': torch.zeros(2)},
     'a RADIO of another version.*unknown: patch_generator.video'),
    ({f'{AT}stages.0.blocks.0.conv1.weight': torch.zeros(2)},
     'a RADIO of another version'),
    ({f'{AT}blocks.1.norm1.bias': None}, 'blocks.1.norm1.bias is missing'),
    ({f'{AT}patch_generator.cls_token.token': torch.zeros(4, 32)},
     '3 register tokens, the model has 7'),
    ({f'{AT}patch_generator.pos_embed': torch.zeros(1, 35, 32)}, '35 pos'),
    ({f'{AT}patch_generator.embedder.weight': torch.zeros(32, 190)},
     'embedder.*190'),
    ({f'{AT}patch_generator.cls_token.token': None}, 'cls_token.token'),
])
def test_illegal_files(tmp_path, change, message):
    weights = {**radio_file(V3), **change}
    weights = {name: t for name, t in weights.items() if t is not None}
    with pytest.raises(ValueError, match=message):
        teacher_of(saved(tmp_path, weights), V3, dict(KWARGS, mlp_ratio=4))
