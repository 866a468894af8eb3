"""What a backbone returns is found, and meets a teacher's grid."""
import copy

import pytest
import torch
import torch.nn.functional as F
from mmpretrain.registry import MODELS

from dmae_mm.models.feature_maps import (build_backbone, look_at,
                                         map_backbone, on_grid)
from tests.toys.models import NARROW_RESNET

SWIN = dict(
    type='SwinTransformer',
    arch=dict(embed_dims=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2]),
    window_size=2)
EFFICIENTFORMER = dict(
    type='EfficientFormer',
    arch=dict(
        layers=[1] * 4, embed_dims=[8, 16, 24, 32],
        downsamples=[False, True, True, True], vit_num=1))
TIMM_SWIN = dict(
    type='TIMMBackbone',
    model_name='swin_tiny_patch4_window7_224',
    embed_dim=8,
    depths=(1, ) * 4,
    num_heads=(1, 1, 2, 2))
VIT = dict(
    type='VisionTransformer',
    arch=dict(
        embed_dims=16, num_layers=3, num_heads=2, feedforward_channels=32),
    img_size=32,
    patch_size=8)


def found(backbone, aligned):
    cfg, number = map_backbone(copy.deepcopy(backbone), aligned)
    backbone = build_backbone(cfg)
    return cfg, look_at(backbone, cfg, number, aligned), backbone


@pytest.mark.parametrize(
    'backbone, aligned, number, widths, options', [
        (NARROW_RESNET, [-1], 4, {3: 64}, {}),
        (NARROW_RESNET, [0.5, 3], 4, {1: 16, 3: 64}, dict(out_indices=[1, 3])),
        (dict(NARROW_RESNET, out_indices=(0, 1, 2, 3)), [-1], 4, {3: 64},
         dict(out_indices=[0, 1, 2, 3])),
        (dict(type='MobileNetV3', arch='small_050'), [-1, 3], 13,
         {3: 16, 12: 288}, dict(out_indices=[3, 12])),
        (dict(type='ConvNeXt', arch=dict(
            depths=[1] * 4, channels=[8, 16, 24, 32])), [-1], 4, {3: 32},
         dict(gap_before_final_norm=False)),
        (SWIN, [2, -1], 4, {2: 32, 3: 64}, dict(out_indices=[2, 3])),
        (VIT, [0, -1], 3, {0: 16, 2: 16},
         dict(out_indices=[0, 2], out_type='featmap')),
        (EFFICIENTFORMER, [-1], 4, {3: 32},
         dict(reshape_last_feat=True)),
        (dict(type='AlexNet'), [-1], 1, {0: 256}, {}),
        (dict(type='TIMMBackbone', model_name='resnet18'), [-1, 1], 5,
         {1: 64, 4: 512}, dict(features_only=True, out_indices=[1, 4])),
        # Its channels are last, but for this class of timm's.
        (TIMM_SWIN, [-1], 4, {3: 64}, dict(
             features_only=True, out_indices=[3], feature_cls='getter')),
        (dict(type='TIMMBackbone', model_name='resnet18',
              features_only=False), [-1], 1, {0: 512}, {}),
    ], ids=lambda value: value.get('model_name', value.get('type'))
    if isinstance(value, dict) else None)
def test_stages_and_widths_are_found(backbone, aligned, number, widths,
                                     options):
    given = dict(backbone)
    state = torch.get_rng_state()
    cfg, _ = map_backbone(backbone, aligned)
    assert torch.equal(state, torch.get_rng_state()) and backbone == given
    assert {key: cfg[key] for key in cfg if key not in given} == {
        key: value for key, value in options.items() if key not in given}
    built = build_backbone(cfg)
    before = {name: t.clone() for name, t in built.state_dict().items()}
    state = torch.get_rng_state()
    maps = look_at(built, cfg, map_backbone(backbone, aligned)[1], aligned)
    assert torch.equal(state, torch.get_rng_state())
    assert (maps.num_stages, maps.widths) == (number, widths)
    for name, tensor in built.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert all(p.grad is None for p in built.parameters())


def test_parameters_behind_the_aligned_stages_are_found():
    _, maps, backbone = found(NARROW_RESNET, [1])
    behind = [name for name, _ in backbone.named_parameters()
              if name.startswith(('layer3', 'layer4'))]
    assert maps.unused == behind and len(behind) == 30
    # Its blocks set their gradients by themselves in a backward pass.
    _, maps, _ = found(
        dict(type='RevVisionTransformer', arch=VIT['arch'], img_size=32,
             patch_size=8, out_type='featmap'), [-1])
    assert maps.unused == []


@pytest.mark.parametrize('backbone, aligned, message', [
    (NARROW_RESNET, [4],
     'no stage 4. It has 4 stages: give an int from -4 to 3'),
    (NARROW_RESNET, [0.1], 'no stage 0.1'),
    (dict(NARROW_RESNET, out_indices=(3, )), [1, 3],
     r'out_indices=\(3,\) leaves out the stages \[1\]'),
    (dict(NARROW_RESNET, frozen_stages=4), [-1], r'stages \[3\] are frozen'),
    (dict(type='AlexNet'), [1], 'no stage 1. It has 1 stages'),
    (dict(VIT, out_type='cls_token'), [-1],
     r"no map .*\(B, 16\). Set out_type='featmap' in backbone"),
    (dict(type='ConvNeXt', arch='atto', gap_before_final_norm=True), [-1],
     r'Set gap_before_final_norm=False'),
    (dict(type='AlexNet', num_classes=3), [-1],
     r'\(B, 3\). Set num_classes=-1'),
    (dict(type='MlpMixer', img_size=32, patch_size=8, arch=dict(
        embed_dims=16, num_layers=2, tokens_mlp_dims=8,
        channels_mlp_dims=8)), [-1], 'choose another backbone'),
    (dict(type='TIMMBackbone', model_name='vit_tiny_patch16_224',
          features_only=False), [-1], 'Set features_only=True'),
    (dict(type='TIMMBackbone', model_name='resnet1'), [-1],
     "cannot be built with model_name='resnet1'"),
    (dict(type='ResNet', depth=17), [-1], 'depth=17.*invalid depth'),
    (dict(type='ResNetX'), [-1], "type='ResNetX' does not exist"),
    (dict(depth=18), [-1], 'is not a dict with a "type"'),
    (dict(type='MILANViT', arch=VIT['arch'], img_size=32, patch_size=8),
     [-1], "cannot be run.*missing 1 required"),
])
def test_what_gives_no_map_is_refused(backbone, aligned, message):
    with pytest.raises(ValueError, match=message):
        found(backbone, aligned)


def test_a_finer_map_is_pooled():
    """Stride 8 of 224 px, 28 x 28, on 14 x 14: means of 2 x 2 places."""
    feature_map = torch.randn(2, 3, 28, 28)
    tokens = on_grid(feature_map, (14, 14))
    assert tokens.shape == (2, 196, 3)
    by_hand = sum(feature_map[:, :, i::2, j::2] for i in (0, 1)
                  for j in (0, 1)) / 4
    torch.testing.assert_close(
        tokens, by_hand.flatten(2).transpose(1, 2))
    # On 16 x 16: token 0 covers places 0 to 1.75, so 0 and 1; token 1 those
    # from 1.75 to 3.5, so 1, 2 and 3.
    tokens = on_grid(feature_map, (16, 16)).view(2, 16, 16, 3)
    torch.testing.assert_close(
        tokens[:, 0, 1], feature_map[:, :, :2, 1:4].mean(dim=(2, 3)))


def test_a_coarser_map_is_interpolated():
    """Stride 32 of 224 px, 7 x 7, on 14 x 14: a quarter of a place from each
    middle, and the outermost as they are."""
    row = torch.arange(7.).view(1, 1, 1, 7)
    row = on_grid((row * row).expand(1, 1, 7, 7), (14, 14)).view(14, 14)
    assert row[3, 0] == 0 and row[3, -1] == 36
    assert row[5, 1] == pytest.approx(.25 * 1)
    assert row[5, 2] == pytest.approx(.75 * 1)
    assert row[5, 5] == pytest.approx(.75 * 4 + .25 * 9)
    # Stride 16 of 224 px on the 16 x 16 of a patch of 14: 14/16 of a place.
    row = torch.arange(14.).expand(1, 1, 14, 14)
    row = on_grid(row, (16, 16)).view(16, 16)
    assert row[0, 0] == 0
    assert row[0, 1] == pytest.approx(1.5 * 14 / 16 - .5)


@pytest.mark.parametrize('size', [(28, 28), (14, 14), (7, 7), (28, 20),
                                  (5, 7), (10, 28)])
@pytest.mark.parametrize('grid', [(14, 14), (16, 16), (14, 10)])
def test_the_rule_is_pytorchs_own(size, grid):
    feature_map = torch.randn(2, 3, *size)
    pooled = F.adaptive_avg_pool2d(
        feature_map, [min(pair) for pair in zip(size, grid)])
    wanted = F.interpolate(
        pooled, size=grid, mode='bilinear', align_corners=False)
    torch.testing.assert_close(
        on_grid(feature_map, grid), wanted.flatten(2).transpose(1, 2))


def test_gradients():
    for size in ((4, 3), (2, 6)):
        feature_map = torch.randn(
            1, 2, *size, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(
            lambda x: on_grid(x, (3, 4)), feature_map)


def test_backbones_of_other_packages_are_found_by_their_scope():
    assert found(dict(NARROW_RESNET, type='mmpretrain.ResNet'),
                 [-1])[1].widths == {3: 64}
    assert MODELS.get('mmpretrain.ResNet') is MODELS.get('ResNet')
