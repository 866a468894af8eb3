"""Original files of FAIR's DINO, DINOv2, DINOv3 and EUPE, of iBOT, MoCo v3
and other training code that keeps timm's names under a prefix."""
import re
from dataclasses import replace
from typing import Optional

import torch

from ..names import under_prefix
from ..origin import IMAGENET_MEAN, IMAGENET_STD, Origin, origin_of
from ..tensor_file import TensorFile, Tensors
from .format import Format, Normalisation
from .renaming import rename, table
from .towers import Sizes, choose_prefix, others, prefixes_of

_LANDMARK = 'patch_embed.proj.weight'
# timm converts the multimodal TIPSv2, whose vision transformer has DINOv2's
# names, but images between 0 and 1.
_OF_OTHERS = ('vision_encoder.', )
_IMAGENET = dict(mean=IMAGENET_MEAN, std=IMAGENET_STD)

# FAIR's names and timm's; # is the number of a block. Some are the same.
_DINOV2 = table('''
    cls_token            cls_token
    pos_embed            pos_embed
    register_tokens      reg_token
    patch_embed.proj.*   patch_embed.proj.*
    blocks.#.norm1.*     blocks.#.norm1.*
    blocks.#.attn.qkv.*  blocks.#.attn.qkv.*
    blocks.#.attn.proj.* blocks.#.attn.proj.*
    blocks.#.ls1.gamma   blocks.#.ls1.gamma
    blocks.#.norm2.*     blocks.#.norm2.*
    blocks.#.mlp.fc1.*   blocks.#.mlp.fc1.*
    blocks.#.mlp.fc2.*   blocks.#.mlp.fc2.*
    blocks.#.mlp.w12.*   blocks.#.mlp.fc1.*
    blocks.#.mlp.w3.*    blocks.#.mlp.fc2.*
    blocks.#.ls2.gamma   blocks.#.ls2.gamma
    norm.*               norm.*
''')
# timm's are those of its Eva.
_DINOV3 = table('''
    cls_token            cls_token
    storage_tokens       reg_token
    patch_embed.proj.*   patch_embed.proj.*
    blocks.#.norm1.*     blocks.#.norm1.*
    blocks.#.attn.qkv.*  blocks.#.attn.qkv.*
    blocks.#.attn.proj.* blocks.#.attn.proj.*
    blocks.#.ls1.gamma   blocks.#.gamma_1
    blocks.#.norm2.*     blocks.#.norm2.*
    blocks.#.mlp.fc1.*   blocks.#.mlp.fc1.*
    blocks.#.mlp.fc2.*   blocks.#.mlp.fc2.*
    blocks.#.mlp.w1.*    blocks.#.mlp.fc1_g.*
    blocks.#.mlp.w2.*    blocks.#.mlp.fc1_x.*
    blocks.#.mlp.w3.*    blocks.#.mlp.fc2.*
    blocks.#.ls2.gamma   blocks.#.gamma_2
    norm.*               norm.*
''')
# What has no place in an encoder: norms of other crops, heads of EUPE.
_BESIDE_DINOV3 = ('mask_token', 'local_cls_norm.', 'cls_norm.', 'projectors.',
                  'head.')

_DINOV2_MODELS = {
    (384, 12, 14): 'vit_small_patch14{}_dinov2',
    (768, 12, 14): 'vit_base_patch14{}_dinov2',
    (1024, 24, 14): 'vit_large_patch14{}_dinov2',
    (1536, 40, 14): 'vit_giant_patch14{}_dinov2',
}
_DINOV3_MODELS = {
    (192, 12, 16): 'vit_tiny_patch16_dinov3',
    (384, 12, 16): 'vit_small{}_patch16_dinov3',
    (768, 12, 16): 'vit_base_patch16_dinov3',
    (1024, 24, 16): 'vit_large_patch16_dinov3',
    (1280, 32, 16): 'vit_huge{}_patch16_dinov3',
    (4096, 40, 16): 'vit_7b_patch16_dinov3',
}
# DINOv3's weights for satellite images; their names are the same.
_SATELLITE = Normalisation(
    tuple(255 * value for value in (.430, .411, .296)),
    tuple(255 * value for value in (.213, .156, .143)))


def recognise(file: TensorFile) -> Optional[Format]:
    """One of these, or None."""
    towers = {}
    for prefix in prefixes_of(file.tensors, _LANDMARK):
        tensors = _without_chunks(under_prefix(file.tensors, prefix))
        if prefix not in _OF_OTHERS and _is_plain(tensors, prefix):
            towers[prefix] = tensors
    if not towers:
        return None
    prefix = choose_prefix(list(towers))
    tensors, ignored = towers[prefix], others(file.tensors, prefix)
    if 'storage_tokens' in tensors:
        found = _dinov3(tensors)
    elif _is_of_dinov2(tensors):
        found = _dinov2(tensors)
    elif 'masked_embed' in tensors:
        found = _plain('an iBOT', tensors)
    elif prefix:
        found = _prefixed(file, prefix, tensors)
    else:
        return None  # these are timm's names already
    return replace(found, ignored=ignored + found.ignored)


def _is_plain(tensors: Tensors, prefix: str) -> bool:
    """A vision transformer without relative positions, of images.

    mmpretrain's HiViT has such names, too, but no CLS token.
    """
    return ({'blocks.0.norm1.weight', 'blocks.0.attn.qkv.weight'}
            <= tensors.keys()
            and tensors[_LANDMARK].dim() == 4
            and (prefix != 'backbone.' or 'cls_token' in tensors)
            and not any('rel_pos' in name or 'relative_position' in name
                        for name in tensors))


def _without_chunks(tensors: Tensors) -> Tensors:
    """Training on several machines groups blocks; the second number counts
    over all groups."""
    return {
        re.sub(r'^blocks\.\d+\.(\d+)\.', r'blocks.\1.', name): tensor
        for name, tensor in tensors.items()
    }


def _is_of_dinov2(tensors: Tensors) -> bool:
    """Its mask token is (1, C); that of MAE and BEiT is (1, 1, C)."""
    mask = tensors.get('mask_token')
    return 'blocks.0.ls1.gamma' in tensors and (
        'register_tokens' in tensors or (mask is not None
                                         and mask.dim() == 2))


def _dinov2(tensors: Tensors) -> Format:
    """https://arxiv.org/abs/2304.07193"""
    renamed, left = rename(tensors, _DINOV2, ['mask_token', 'head.'])
    registers, is_registered = '', 'reg_token' in renamed
    if is_registered:
        # timm's have no position; that of CLS is added here.
        renamed['cls_token'] = renamed['cls_token'].float() + renamed[
            'pos_embed'][:, :1].float()
        renamed['pos_embed'] = renamed['pos_embed'][:, 1:]
        registers = f'_reg{renamed["reg_token"].shape[1]}'
    model_name, model_kwargs = Sizes.of(
        renamed, num_prefix=0 if is_registered else 1).model(_DINOV2_MODELS)
    return Format(
        name='a DINOv2' + ' with registers' * is_registered,
        tensors=renamed,
        model_name=model_name and model_name.format(registers),
        model_kwargs=model_kwargs,
        norm_eps=1e-6,
        origin=Origin(**_IMAGENET, said_by="DINOv2's own transforms"),
        ignored=left)


def _dinov3(tensors: Tensors) -> Format:
    """https://arxiv.org/abs/2508.10104, and EUPE, which has the same names"""
    periods = tensors.get('rope_embed.periods')
    masks = {
        name.removesuffix('_mask'): tensor
        for name, tensor in tensors.items() if name.endswith('.bias_mask')
    }
    renamed, left = rename(
        {
            name: tensor
            for name, tensor in tensors.items()
            if name != 'rope_embed.periods'
            and not name.endswith('.bias_mask')
        }, _DINOV3, _BESIDE_DINOV3)
    renamed = _split_biases(renamed, masks)
    width = renamed['cls_token'].shape[-1]
    sizes = Sizes.of(renamed)
    model_name, _ = sizes.model(_DINOV3_MODELS)
    if model_name:
        is_gated = 'blocks.0.mlp.fc1_g.weight' in renamed
        model_name = model_name.format('_plus' * is_gated)
        if any(tensor.any() for name, tensor in renamed.items()
               if name.endswith(('.q_bias', '.v_bias'))):
            model_name += '_qkvb'
    is_of_eupe = any(name.startswith('projectors.') for name in left)
    return Format(
        name='a EUPE' if is_of_eupe else 'a DINOv3, or a EUPE',
        tensors=renamed,
        model_name=model_name,
        norm_eps=1e-5,
        origin=Origin(
            **_IMAGENET,
            num_heads=_num_heads(periods, width),
            said_by=f'{"EUPE" if is_of_eupe else "DINOv3"}\'s own transforms'
            f' (those for photographs)'),
        other_normalisations=() if is_of_eupe else (_SATELLITE, ),
        ignored=left)


def _split_biases(tensors: Tensors, masks: Tensors) -> Tensors:
    """As timm's Eva has them: one for queries, one for values.

    Keys have none: the original multiplies it by a mask of zeros.
    """
    split = {}
    for name, tensor in tensors.items():
        if not name.endswith('.attn.qkv.bias'):
            split[name] = tensor
            continue
        if name in masks:
            tensor = torch.where(masks[name] == 0, torch.zeros_like(tensor),
                                 tensor * masks[name])
        query, key, value = tensor.chunk(3)
        if key.any():
            raise ValueError(
                f'it has the names of DINOv3, but the keys of {name} have a '
                'bias, and no bias_mask hides it. timm has no such model')
        block = name.removesuffix('qkv.bias')
        split[f'{block}q_bias'], split[f'{block}v_bias'] = query, value
    return split


def _num_heads(periods: Optional[torch.Tensor],
               width: int) -> Optional[int]:
    """A head has four numbers for each period of its rotary embeddings."""
    if periods is None:
        return None
    head = 4 * periods.numel()
    expected = 100**torch.linspace(0, 1, periods.numel() + 1)[:-1]
    # FAIR keeps them in bfloat16.
    if not torch.allclose(periods.float(), expected, rtol=.01):
        raise ValueError(
            'it has the names of DINOv3, but its rotary embeddings have '
            f'periods from {periods.min():.3g} to {periods.max():.3g} '
            f'(rope_embed.periods) instead of 1 to {expected.max():.3g}. '
            'timm has no such model')
    return width // head if width % head == 0 else None


def _prefixed(file: TensorFile, prefix: str, tensors: Tensors) -> Format:
    """Nothing but the prefix, and perhaps what else is in the file, tells
    whose it is."""
    names = file.tensors
    if any('head.last_layer.' in name for name in names):
        return _plain('a DINO', tensors)
    if prefix.endswith(('base_encoder.', 'momentum_encoder.')):
        return _plain('a MoCo v3', tensors)
    return Format(
        name=f'a vision transformer with timm\'s names behind {prefix!r}',
        tensors=tensors,
        origin=origin_of(file.meta, tensors))


def _plain(name: str, tensors: Tensors) -> Format:
    """timm's names already, apart from what no encoder has."""
    kept = {
        key: tensor
        for key, tensor in tensors.items()
        if key != 'masked_embed' and not key.startswith('head.')
    }
    return Format(
        name=name,
        tensors=kept,
        norm_eps=1e-6,
        origin=Origin(
            **_IMAGENET, said_by=f"{name.split()[1]}'s own transforms"),
        ignored=[key for key in tensors if key not in kept])
