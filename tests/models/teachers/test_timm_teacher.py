"""Vision transformers of timm see what they should and stop where they should.
"""
import copy

import pytest
import timm
import torch
from mmpretrain.registry import MODELS

from dmae_mm.models.student_input import StudentInput
from tests.toys.models import randomize
from tests.toys.timm_families import (FAMILIES, NO_CLS, PREFIX_TOKENS,
                                       patch_size, toy_kwargs)

def build(family, blocks=(1, 3), **kwargs):
    return MODELS.build(
        dict(
            type='TimmTeacher',
            model_name=FAMILIES[family],
            model_kwargs=toy_kwargs(family),
            aligned_blocks=blocks,
            allow_random=True,
            **kwargs))


def pair(family, **kwargs):
    """A teacher and timm's whole model with the same weights."""
    whole = timm.create_model(FAMILIES[family], **toy_kwargs(family),
                              **kwargs).eval()
    randomize(whole)
    teacher = build(family)
    weights = whole.state_dict()
    teacher.network.load_state_dict(
        {name: weights[name]
         for name in teacher.network.state_dict()})
    return teacher, whole


def images_of(family):
    generator = torch.Generator().manual_seed(1)
    side = 4 * patch_size(family)
    return torch.randn(3, 3, side, side, generator=generator)


@torch.no_grad()
def intermediates(whole, images):
    """timm's own features of blocks 1 and 3, the prefix tokens first."""
    with_prefix = whole.num_prefix_tokens > 0
    outputs = whole.forward_intermediates(
        images,
        indices=[1, 3],
        return_prefix_tokens=with_prefix,
        output_fmt='NLC',
        intermediates_only=True)
    if with_prefix:
        outputs = [torch.cat([prefix, patches], 1)
                   for patches, prefix in outputs]  # yapf: disable
    return outputs


@pytest.mark.parametrize('family', FAMILIES)
def test_all_patches_kept_equals_timm(family):
    teacher, whole = pair(family)
    images = images_of(family)
    ids_keep = torch.arange(16).expand(3, -1)
    for ids in (ids_keep, None):
        for feature, wanted in zip(
                teacher(images, ids), intermediates(whole, images)):
            torch.testing.assert_close(feature, wanted, rtol=1e-5, atol=1e-5)
    assert teacher.num_prefix_tokens == PREFIX_TOKENS.get(family, 1)
    assert teacher.has_cls_token == (family not in NO_CLS)
    assert teacher.embed_dims == 32 and teacher.num_layers == 6
    assert teacher.patch_grid == (4, 4)


@pytest.mark.parametrize('family', FAMILIES)
def test_a_subset_equals_timms_own_patch_dropping(family):
    """timm draws the patches that it keeps; the teacher gets the same."""
    teacher, whole = pair(family, patch_drop_rate=.7)
    images = images_of(family)
    whole.patch_drop.train()
    # timm 1.0.31 builds it for one token even where there are two, so that
    # it may drop the distillation token.
    whole.patch_drop.num_prefix_tokens = whole.num_prefix_tokens
    torch.manual_seed(5)
    wanted = intermediates(whole, images)
    torch.manual_seed(5)
    ids_keep = torch.randn(3, 16).argsort(dim=-1)[:, :4]  # as timm draws
    assert wanted[0].shape == (3, teacher.num_prefix_tokens + 4, 32)
    for feature, expected in zip(teacher(images, ids_keep), wanted):
        torch.testing.assert_close(feature, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('family', FAMILIES)
def test_hidden_patches_do_not_matter(family):
    teacher, _ = pair(family)
    images, side = images_of(family), patch_size(family)
    ids_keep = torch.tensor([[0, 5, 9], [15, 1, 2], [3, 4, 12]])
    changed = images.clone()
    for image, keep in zip(changed, ids_keep.tolist()):
        for patch in set(range(16)) - set(keep):
            row, column = patch // 4 * side, patch % 4 * side
            image[:, row:row + side, column:column + side] += 9.
    before = teacher(images, ids_keep)
    assert all(map(torch.equal, before, teacher(changed, ids_keep)))
    changed[0, :, side:2 * side, side:2 * side] += 9.  # patch 5 of image 0
    after = teacher(changed, ids_keep)
    assert not torch.allclose(before[1][0], after[1][0])
    assert torch.equal(before[1][1:], after[1][1:])


def test_order_of_pairs_and_of_patches():
    teacher = build('MAE', (3, 1, 3))
    randomize(teacher.network)
    images = images_of('MAE')
    ids_keep = torch.tensor([[0, 5, 9]]).expand(3, -1)
    last, first, again = teacher(images, ids_keep)
    assert last is again and not torch.allclose(last, first)
    swapped, *_ = teacher(images, ids_keep[:, [2, 0, 1]])
    torch.testing.assert_close(swapped[:, 1:], last[:, 1:][:, [2, 0, 1]])


def test_blocks_after_the_last_aligned_one_do_not_exist():
    teacher = build('DINOv2')
    assert len(teacher.network.blocks) == 4
    # Per block of width 32: qkv, attention's projection, two MLP layers, two
    # norms, two layer scales. Before: patches, CLS, 17 positions.
    block = 3 * 32 * 33 + 32 * 33 + 128 * 33 + 32 * 129 + 4 * 32 + 2 * 32
    stem = 32 * 3 * 14 * 14 + 32 + 32 + 17 * 32
    assert sum(p.numel() for p in teacher.parameters()) == stem + 4 * block


@pytest.mark.parametrize('blocks, resolved', [([-1], (5, )), ([.75, .5],
                                                              (3, 2))])
def test_blocks_are_counted_before_truncation(blocks, resolved):
    assert build('DINOv3', blocks).aligned_blocks == resolved


def test_frozen_shared_and_in_eval_mode():
    teacher, _ = pair('DINOv3')
    assert teacher.train(True) is teacher
    assert not any(module.training for module in teacher.modules())
    assert not any(p.requires_grad for p in teacher.parameters())
    assert copy.deepcopy([teacher])[0] is teacher


def test_random_weights_are_the_same_every_time_and_cost_no_random_state():
    torch.manual_seed(11)
    first = build('MAE').state_dict()
    drawn = torch.rand(1)
    torch.manual_seed(11)
    assert torch.equal(drawn, torch.rand(1))
    second = build('MAE').state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize('family', ['MAE', 'DINOv2 with registers', 'SigLIP',
                                    'EVA-02', 'DINOv3', 'rotary, learnt'])
def test_another_grid_is_timms_own_resampling(family):
    """A student with 6 x 6 patches: as timm's set_input_size does it."""
    student = StudentInput(img_size=(96, 96), patch_grid=(6, 6), in_channels=3)
    teacher = build(family, student_input=student)
    whole = timm.create_model(FAMILIES[family], **toy_kwargs(family)).eval()
    whole.load_state_dict(build(family, [-1]).network.state_dict(),
                          strict=False)
    side = 6 * patch_size(family)
    whole.set_input_size(img_size=(side, side))
    assert teacher.img_size == (side, side) and teacher.patch_grid == (6, 6)
    images = torch.randn(2, 3, 96, 96)
    resized = images if side == 96 else torch.nn.functional.interpolate(
        images, size=(side, side), mode='bicubic', antialias=True)
    ids_keep = torch.arange(36).expand(2, -1)
    for feature, wanted in zip(
            teacher(images, ids_keep), intermediates(whole, resized)):
        torch.testing.assert_close(feature, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('family', ['MAE', 'DINOv2 with registers', 'EVA-02',
                                    'DINOv3', 'SigLIP'])
@pytest.mark.parametrize('dtype, tolerance', [('bfloat16', .02),
                                              ('float16', .002)])
def test_half_precision_halves_the_memory(family, dtype, tolerance):
    exact, whole = pair(family)
    teacher = build(family, dtype=dtype)
    weights = whole.state_dict()
    teacher.network.load_state_dict(
        {name: weights[name] for name in teacher.network.state_dict()})
    size = [sum(p.nbytes for p in t.parameters()) for t in (exact, teacher)]
    assert size[0] == 2 * size[1]
    images = images_of(family)
    ids_keep = torch.arange(5).expand(3, -1)
    for half, full in zip(teacher(images, ids_keep), exact(images, ids_keep)):
        assert half.dtype == torch.float32
        error = (half - full).norm() / full.norm()
        assert 0 < error < tolerance


def test_normalisation_comes_from_timms_description():
    """CLIP's own mean and std, as fractions of 255, from ImageNet's."""
    mean, std = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
    student = StudentInput((64, 64), (4, 4), 3, mean, std)
    teacher = build('CLIP', student_input=student)
    pixels = torch.tensor([0., 100., 255.])  # one of each channel
    given = (pixels - torch.tensor(mean)) / torch.tensor(std)
    clip_mean = torch.tensor([0.48145466, 0.4578275, 0.40821073]) * 255
    clip_std = torch.tensor([0.26862954, 0.26130258, 0.27577711]) * 255
    torch.testing.assert_close(
        teacher.image_matcher(
            given.view(1, 3, 1, 1).expand(1, 3, 64, 64))[0, :, 0, 0],
        (pixels - clip_mean) / clip_std)
    # ImageNet's of timm are the student's: nothing to convert.
    assert build('MAE', student_input=student).image_matcher.scale is None
    # What the config says counts.
    own = build('CLIP', student_input=student, mean=mean, std=std)
    assert own.image_matcher.scale is None


@pytest.mark.parametrize('change, message', [
    (dict(model_name='vit_base_patch16_242'),
     "'vit_base_patch16_242' is no model of timm.*vit_base_patch16_224"),
    (dict(model_name='vit_base_patch16_224.nothing'),
     "cannot create model_name='vit_base_patch16_224.nothing'"),
    (dict(model_name='beit_base_patch16_224'), 'is a Beit, which.*Eva'),
    (dict(model_name='vit_relpos_small_patch16_224'),
     'is a VisionTransformerRelPos'),
    (dict(model_name='samvit_base_patch16'), 'is a VisionTransformerSAM'),
    (dict(model_name='naflexvit_base_patch16_gap'), 'is a NaFlexVit'),
    (dict(model_name='resnet18'), 'is a ResNet'),
    (dict(model_name='vit_small_r26_s32_224'),
     'HybridEmbed, which mixes hidden patches'),
    (dict(model_kwargs=dict(dept=3)), "model_kwargs=.*'dept': 3.*dept"),
    (dict(model_kwargs=dict(pretrained=True)),
     r"model_kwargs: \['pretrained'\] must not be given"),
    (dict(checkpoint='a.pth', pretrained=True),
     "checkpoint='a.pth' and pretrained=True"),
    (dict(allow_random=False), 'checkpoint=None.*allow_random=True'),
    (dict(aligned_blocks=[12]), 'teacher has no block 12.*-12 to 11'),
    (dict(dtype='half'), "dtype='half'.*'float32', 'bfloat16', 'float16'"),
    (dict(mean=[0, 0, 0]), 'mean=.*give both or none'),
    (dict(mean=[.5] * 3, std=[.5] * 3), 'from 0 to 1.*multiply by 255'),
    (dict(mean=[127.5], std=[127.5], student_input=StudentInput(
        (224, 224), (14, 14), 3)), 'each of the 3 channels'),
    (dict(student_input=StudentInput((224, 224), (14, 14), 5)),
     'takes images of 3 channels, the student of 5.*3 numbers from 0 to 4'),
    (dict(student_input=StudentInput((224, 224), (14, 14), 5),
          channels=[0, 1]), r'channels=\[0, 1\] must be 3 numbers.*0 to 4'),
    (dict(student_input=StudentInput((224, 224), (14, 14), 5),
          channels=[0, 1, 5]), r'channels=\[0, 1, 5\] must be 3 numbers'),
    (dict(sha256='abc'), "sha256='abc' is not 8 to 64"),
])
def test_illegal_options(change, message):
    cfg = dict(
        type='TimmTeacher',
        model_name='vit_tiny_patch16_224',
        aligned_blocks=[0],
        allow_random=True)
    with pytest.raises(ValueError, match=message):
        MODELS.build(dict(cfg, **change))


def test_smaller_images_of_a_student_without_patches(tmp_path):
    """Positions of the file's own grid are resampled, as timm does it."""
    kwargs = dict(depth=2)
    whole = timm.create_model('test_vit', **kwargs)
    randomize(whole)
    torch.save(whole.state_dict(), tmp_path / 'vit.pth')
    options = dict(
        type='TimmTeacher', model_name='test_vit', model_kwargs=kwargs,
        aligned_blocks=[1], checkpoint=str(tmp_path / 'vit.pth'))
    teacher = MODELS.build(dict(
        options, img_size=64, student_input=StudentInput(None, None, 3)))
    assert teacher.patch_grid == (4, 4)
    assert teacher.grid_of(100, 100) == (4, 4)
    teacher.init_weights()
    whole.set_input_size(64)
    assert torch.allclose(
        teacher.network.pos_embed, whole.pos_embed, atol=1e-6)


@pytest.mark.parametrize('size, student, message', [
    (60, StudentInput(None, None, 3), '60 is no multiple of its patches, 16'),
    (64.0, None, '64.0 is no multiple'),
    (64, StudentInput((32, 32), (2, 2), 3), 'the student has patches')])
def test_sizes_that_a_teacher_cannot_have(size, student, message):
    with pytest.raises(ValueError, match=message):
        MODELS.build(dict(
            type='TimmTeacher', model_name='test_vit', aligned_blocks=[1],
            img_size=size, student_input=student, allow_random=True))
