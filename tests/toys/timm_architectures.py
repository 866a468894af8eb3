"""Toy architectures that timm knows by name, as it knows its own.

All have 16 patches of 8 px, 16 wide, 2 blocks; shapes do not tell the first
three apart.
"""
from timm.layers import QuickGELU
from timm.models import generate_default_cfgs, register_model
from timm.models.vision_transformer import _create_vision_transformer

SMALL = dict(
    img_size=32, patch_size=8, embed_dim=16, depth=2, num_heads=2)
INCEPTION = dict(mean=(.5, .5, .5), std=(.5, .5, .5))
IMAGENET = dict(mean=(.485, .456, .406), std=(.229, .224, .225))
_CFG = dict(
    hf_hub_id='toy/none', num_classes=5, input_size=(3, 32, 32),
    fixed_input_size=True, first_conv='patch_embed.proj', classifier='head')
ARCHITECTURES = ('toy_vit_patch8_32', 'toy_heads_patch8_32',
                 'toy_quick_patch8_32', 'toy_registers_patch8_32')

default_cfgs = generate_default_cfgs({
    'toy_vit_patch8_32.one': dict(_CFG, **INCEPTION),
    'toy_vit_patch8_32.same': dict(_CFG, **INCEPTION),
    'toy_vit_patch8_32.mae': dict(_CFG, **IMAGENET),
    'toy_heads_patch8_32.one': dict(_CFG, **INCEPTION),
    'toy_quick_patch8_32.one': dict(_CFG, **INCEPTION),
    'toy_registers_patch8_32.one': dict(_CFG, **INCEPTION),
    'toy_registers_patch8_32.two': dict(_CFG, **INCEPTION),
})


def _create(name, pretrained, kwargs, **own):
    return _create_vision_transformer(
        name, pretrained=pretrained, **{**SMALL, **own, **kwargs})


@register_model
def toy_vit_patch8_32(pretrained=False, **kwargs):
    return _create('toy_vit_patch8_32', pretrained, kwargs)


@register_model
def toy_heads_patch8_32(pretrained=False, **kwargs):
    return _create('toy_heads_patch8_32', pretrained, kwargs, num_heads=4)


@register_model
def toy_quick_patch8_32(pretrained=False, **kwargs):
    return _create(
        'toy_quick_patch8_32', pretrained, kwargs, act_layer=QuickGELU)


@register_model
def toy_registers_patch8_32(pretrained=False, **kwargs):
    return _create('toy_registers_patch8_32', pretrained, kwargs, reg_tokens=3)
