"""The teacher sees what it should and is what it should be."""
import copy

import pytest
import torch
from mmpretrain.registry import MODELS

from tests.conftest import TEACHER

VIT = dict(arch=TEACHER, img_size=32, patch_size=8)


def build(type='MAEViT', blocks=(3, ), seed=0, **kwargs):
    return MODELS.build(
        dict(
            type='MMPretrainTeacher',
            backbone=dict(type=type, **VIT, **kwargs),
            aligned_blocks=blocks,
            allow_random=True))


def randomize(module):
    generator = torch.Generator().manual_seed(3)
    for tensor in module.state_dict().values():
        tensor.copy_(.2 * torch.randn(tensor.shape, generator=generator))


VARIANTS = [
    dict(type='MAEViT'),
    dict(type='VisionTransformer'),
    dict(
        type='VisionTransformer',
        with_cls_token=False,
        layer_scale_init_value=0.1),
    dict(type='VisionTransformer', pre_norm=True),
]


@pytest.mark.parametrize('variant', VARIANTS)
def test_all_patches_kept_equals_the_backbone_itself(variant, images):
    """Block for block, against the stock forward pass of the full model."""
    teacher = build(blocks=(1, 3), **variant)
    randomize(teacher.network)
    full = MODELS.build(
        dict(
            variant,
            **VIT,
            out_indices=[1, 3],
            out_type='raw',
            final_norm=False))
    full.load_state_dict(teacher.network.state_dict(), strict=False)
    full.eval()
    wanted = full(images, mask=None) if variant['type'] == 'MAEViT' else full(
        images)
    ids_keep = torch.arange(16).expand(3, -1)
    for feature, expected in zip(teacher(images, ids_keep), wanted):
        torch.testing.assert_close(feature, expected)


@pytest.mark.parametrize('variant', VARIANTS)
def test_hidden_patches_do_not_matter(variant, images):
    teacher = build(**variant)
    randomize(teacher.network)
    ids_keep = torch.tensor([[0, 5, 9], [15, 1, 2], [3, 4, 12]])
    changed = images.clone()
    changed[0, :, 8:16, 16:24] += 9.  # patch 6 of image 0: hidden
    before, = teacher(images, ids_keep)
    after, = teacher(changed, ids_keep)
    prefix = teacher.num_prefix_tokens
    assert before.shape == (3, prefix + 3, 32)
    assert torch.equal(before, after)
    changed[0, :, 8:16, 8:16] += 9.  # patch 5 of image 0: visible
    after, = teacher(changed, ids_keep)
    assert not torch.allclose(before[0], after[0])
    assert torch.equal(before[1:], after[1:])


def test_patches_come_in_the_order_of_ids_keep(images):
    teacher = build()
    randomize(teacher.network)
    ids_keep = torch.tensor([[0, 5, 9]]).expand(3, -1)
    straight, = teacher(images, ids_keep)
    swapped, = teacher(images, ids_keep[:, [2, 0, 1]])
    torch.testing.assert_close(swapped[:, 1:], straight[:, 1:][:, [2, 0, 1]])


def test_blocks_after_the_last_aligned_one_do_not_exist():
    teacher = build(blocks=(1, 3))
    network = teacher.network
    assert teacher.num_layers == 6
    assert len(network.layers) == 4
    assert not hasattr(network, 'ln1')
    # Per block of width 32: qkv, attention's projection, two MLP layers and
    # two norms; before the blocks: patches, CLS and 17 positions.
    block = 3 * 32 * 33 + 32 * 33 + 128 * 33 + 32 * 129 + 4 * 32
    stem = 32 * 3 * 64 + 32 + 32 + 17 * 32
    assert sum(p.numel() for p in teacher.parameters()) == stem + 4 * block


def test_one_feature_for_each_pair_in_their_order(images):
    teacher = build(blocks=(3, 1, 3))
    ids_keep = torch.arange(4).expand(3, -1)
    last, first, again = teacher(images, ids_keep)
    assert last is again
    alone = build(blocks=(1, ))
    alone.network.load_state_dict(teacher.network.state_dict(), strict=False)
    assert torch.equal(first, alone(images, ids_keep)[0])


def test_frozen_and_in_eval_mode_for_ever(images):
    teacher = build(drop_rate=.5, drop_path_rate=.5)
    assert teacher.train(True) is teacher
    assert not any(module.training for module in teacher.modules())
    assert not any(p.requires_grad for p in teacher.parameters())
    ids_keep = torch.arange(4).expand(3, -1)
    first, second = (teacher(images, ids_keep)[0] for _ in range(2))
    assert torch.equal(first, second)
    assert not first.requires_grad


def test_a_deep_copy_is_the_teacher_itself():
    teacher = build()
    assert copy.deepcopy(dict(a=[teacher]))['a'][0] is teacher


def test_random_weights_are_the_same_every_time_and_cost_no_random_state():
    torch.manual_seed(11)
    first = build().state_dict()
    drawn = torch.rand(1)
    torch.manual_seed(11)
    assert torch.equal(drawn, torch.rand(1))
    torch.manual_seed(12)
    second = build().state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert first['network.pos_embed'].std() > 0


def test_fingerprint_follows_weights_and_blocks():
    teacher = build()
    fingerprint = teacher.fingerprint()
    assert fingerprint == build().fingerprint()
    assert fingerprint != build(blocks=(2, )).fingerprint()
    teacher.network.cls_token.data.view(-1)[0] += 1e-6
    assert fingerprint != teacher.fingerprint()


def test_the_callers_config_is_not_changed():
    cfg = dict(
        type='MMPretrainTeacher',
        backbone=dict(type='MAEViT', **copy.deepcopy(VIT)),
        aligned_blocks=[-1],
        allow_random=True)
    before = copy.deepcopy(cfg)
    MODELS.build(cfg)
    assert cfg == before


@pytest.mark.parametrize('change, message', [
    (dict(type='ResNet'), "'ResNet'.*MAEViT.*VisionTransformer"),
    (dict(type='NoSuchNet'), "'NoSuchNet'.*MAEViT.*VisionTransformer"),
    (dict(arch='vit-b'), "arch='vit-b'.*'?deit-small"),
])
def test_illegal_backbones(change, message):
    with pytest.raises(ValueError, match=message):
        MODELS.build(
            dict(
                type='MMPretrainTeacher',
                backbone=dict(dict(VIT, type='MAEViT'), **change),
                aligned_blocks=[0],
                allow_random=True))


def test_no_checkpoint_is_an_error():
    with pytest.raises(ValueError, match='checkpoint=None.*allow_random=True'):
        MODELS.build(
            dict(
                type='MMPretrainTeacher',
                backbone=dict(type='MAEViT', **VIT),
                aligned_blocks=[0]))
