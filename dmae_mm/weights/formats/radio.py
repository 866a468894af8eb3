"""NVIDIA's C-RADIO: RADIO v3 and v4, whose vision transformer timm has."""
from typing import Optional, Tuple

import torch
import torch.nn.functional as F

from ..names import under_prefix
from ..origin import Origin, square
from ..tensor_file import TensorFile, Tensors
from .format import Format
from .renaming import rename, table
from .towers import choose_prefix, others, prefixes_of

_NAMES = table('''
    patch_generator.pos_embed        pos_embed
    patch_generator.embedder.*       patch_embed.proj.*
    patch_generator.cls_token.token  tokens
    blocks.#.norm1.*                 blocks.#.norm1.*
    blocks.#.attn.qkv.*              blocks.#.attn.qkv.*
    blocks.#.attn.proj.*             blocks.#.attn.proj.*
    blocks.#.ls1.gamma               blocks.#.ls1.gamma
    blocks.#.ls1.grandma             blocks.#.ls1.gamma
    blocks.#.norm2.*                 blocks.#.norm2.*
    blocks.#.mlp.fc1.*               blocks.#.mlp.fc1.*
    blocks.#.mlp.fc2.*               blocks.#.mlp.fc2.*
    blocks.#.ls2.gamma               blocks.#.ls2.gamma
    blocks.#.ls2.grandma             blocks.#.ls2.gamma
''')
# Which of timm's models were released with such an interpolation of their
# positions; timm's own list is private.
_ALIGN_CORNERS = ('vit_base_patch16_radio_v3', 'vit_huge_patch16_radio_v3')


def recognise(file: TensorFile) -> Optional[Format]:
    """A RADIO with a plain vision transformer, or None.

    Raises:
        ValueError: If it has parts that timm's has not, as other versions.
    """
    tensors = file.tensors
    prefixes = prefixes_of(tensors, 'patch_generator.pos_embed')
    if not prefixes:
        return None
    prefix = choose_prefix(prefixes)
    try:
        renamed, left = rename(
            under_prefix(tensors, prefix), _NAMES, ['norm.', 'head.'])
    except ValueError as error:
        raise ValueError(
            f'it is a RADIO of another version than v3 and v4, which timm '
            f'has: {error}') from None
    _check_shapes(renamed)
    # One CLS token for each teacher of RADIO, then registers. timm calls the
    # first CLS, and all the others registers.
    tokens = renamed.pop('tokens').unsqueeze(0)
    renamed['cls_token'], renamed['reg_token'] = tokens[:, :1], tokens[:, 1:]
    _as_convolution(renamed)
    mean, std = (tensors.get(
        f'{prefix.removesuffix("model.")}input_conditioner.norm_{name}')
                 for name in ('mean', 'std'))
    origin = Origin()
    if None not in (mean, std):
        origin = Origin(
            mean=tuple((255 * mean).flatten().tolist()),
            std=tuple((255 * std).flatten().tolist()),
            said_by='the input_conditioner in it')
    return Format(
        name='a RADIO',
        tensors=renamed,
        norm_eps=1e-6,
        act_layer='gelu',
        origin=origin,
        resample=_resample,
        ignored=others(tensors, prefix) + left)


def _check_shapes(tensors: Tensors) -> None:
    """Of what is converted here, before it is."""
    for new, dims, old in (('tokens', 2, 'cls_token.token'),
                           ('pos_embed', 3, 'pos_embed'),
                           ('patch_embed.proj.weight', 2, 'embedder.weight')):
        if new not in tensors or tensors[new].dim() != dims:
            raise ValueError(f'it is a RADIO without patch_generator.{old}, '
                             'or with one of another shape')
    if square(tensors['pos_embed'].shape[1]) is None:
        raise ValueError(
            'it is a RADIO, but patch_generator.pos_embed has '
            f'{tensors["pos_embed"].shape[1]} positions, which are no square')
    inputs = tensors['patch_embed.proj.weight'].shape[1]
    if inputs % 3 or square(inputs // 3) is None:
        raise ValueError(
            f'it is a RADIO, but patch_generator.embedder takes {inputs} '
            'numbers, which are no square patch of three channels')


def _as_convolution(tensors: Tensors) -> None:
    """RADIO multiplies flattened patches, (3 * P * P,), by a matrix."""
    weight = tensors['patch_embed.proj.weight']
    tensors['patch_embed.proj.weight'] = weight.reshape(
        -1, 3, *square(weight.shape[1] // 3))
    tensors.setdefault('patch_embed.proj.bias',
                       weight.new_zeros(weight.shape[0]))


def _resample(positions: torch.Tensor, grid: Tuple[int, int],
              model_name: str) -> torch.Tensor:
    """As RADIO does: to a square, of which an oblong grid is a corner.

    Args:
        positions (torch.Tensor): (1, S * S, C).
        grid (tuple[int, int]): Rows and columns of patches.
        model_name (str): Of timm, which tells the versions apart.

    Returns:
        torch.Tensor: (1, rows * columns, C).
    """
    rows, columns = grid
    side, length = max(grid), square(positions.shape[1])[0]
    whole = F.interpolate(
        positions.float().reshape(1, length, length, -1).movedim(-1, 1),
        size=(side, side),
        mode='bilinear',
        align_corners=model_name in _ALIGN_CORNERS)
    corner = whole[:, :, :rows, :columns].flatten(2).transpose(1, 2)
    return corner.to(positions.dtype)
