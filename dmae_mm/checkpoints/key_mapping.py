"""Names of weights: those of MAE's public files, and mmpretrain's."""
import re
from typing import Dict, List, Optional, Tuple

import torch

Tensors = Dict[str, torch.Tensor]

# MAE (and DMAE's public code, which extends it) -> mmpretrain.
_PARAMETERS = {
    'cls_token': 'backbone.cls_token',
    'pos_embed': 'backbone.pos_embed',
    'mask_token': 'neck.mask_token',
    'decoder_pos_embed': 'neck.decoder_pos_embed',
}
# Modules with a weight and a bias.
_MODULES = {
    'patch_embed.proj': 'backbone.patch_embed.projection',
    'norm': 'backbone.ln1',
    'decoder_embed': 'neck.decoder_embed',
    'decoder_norm': 'neck.ln1',
    'decoder_pred': 'neck.decoder_pred',
    # Only in fine-tuned files: the norm behind average pooling and the head.
    'fc_norm': 'backbone.ln2',
    'head': 'head.fc',
}
_BLOCKS = {
    'blocks': 'backbone.layers',
    'decoder_blocks': 'neck.decoder_blocks',
}
_IN_BLOCK = {
    'norm1': 'ln1',
    'attn.qkv': 'attn.qkv',
    'attn.proj': 'attn.proj',
    'norm2': 'ln2',
    'mlp.fc1': 'ffn.layers.0.0',
    'mlp.fc2': 'ffn.layers.1',
}
_PROJECTORS = 'aligned_feature_projection_heads'
# Number of linear layers in a projector -> their names in
# FeatureProjectionNeck ('linear', 'mlp' and 'mlp2').
_PROJECTOR_LAYERS = {1: ('', ), 2: ('.0', '.2'), 4: ('.0', '.2', '.3', '.5')}

# By which names a layout is recognised; the first that applies.
_LAYOUTS = {
    'mmpretrain': ('backbone.', 'neck.'),
    'mmpretrain backbone': ('layers.', 'patch_embed.projection.'),
    'MAE': ('blocks.', 'patch_embed.proj.', 'decoder_'),
}


def layout_of(tensors: Tensors) -> Optional[str]:
    """Whose names a checkpoint uses.

    Args:
        tensors (dict[str, torch.Tensor]): All weights of a checkpoint.

    Returns:
        str | None: 'mmpretrain' for a whole model, 'mmpretrain backbone' for
        a backbone alone, 'MAE', or None for none of these.
    """
    for layout, beginnings in _LAYOUTS.items():
        if any(name.startswith(beginnings) for name in tensors):
            return layout
    return None


def mae_to_mmpretrain(tensors: Tensors) -> Tensors:
    """Rename the weights of FAIR's MAE or of DMAE's public code.

    Args:
        tensors (dict[str, torch.Tensor]): Weights of an encoder alone or of
            a whole model, with or without
            ``aligned_feature_projection_heads``.

    Returns:
        dict[str, torch.Tensor]: The same tensors under mmpretrain's names,
        with the prefixes ``backbone.``, ``neck.``, ``distill_neck.`` and,
        for fine-tuned files, ``head.``.

    Raises:
        ValueError: If a name belongs to neither.
    """
    projectors = _projector_modules(tensors)
    renamed, unknown = {}, []
    for name, tensor in tensors.items():
        new_name = _rename(name, projectors)
        if new_name is None:
            unknown.append(name)
        else:
            renamed[new_name] = tensor
    if unknown:
        more = f' and {len(unknown) - 5} more' * (len(unknown) > 5)
        raise ValueError(
            'These tensors belong neither to MAE nor to DMAE: '
            f'{", ".join(unknown[:5])}{more}. Expected names are those of a '
            'plain vision transformer with MAE decoder (cls_token, '
            'pos_embed, patch_embed.proj.*, blocks.*, norm.*, mask_token, '
            f'decoder_*), {_PROJECTORS}.*, fc_norm.* and head.*.')
    return renamed


def backbone_state_dict(tensors: Tensors) -> Tuple[Tensors, str]:
    """Find the encoder in a checkpoint, under mmpretrain's names.

    Args:
        tensors (dict[str, torch.Tensor]): All weights of a checkpoint.

    Returns:
        tuple[dict, str]: The encoder's weights without prefix, and the
        layout that was recognised: see :func:`layout_of`.

    Raises:
        ValueError: If there is no encoder in any of these layouts.
    """
    layout = layout_of(tensors)
    if layout == 'mmpretrain backbone':
        return dict(tensors), layout
    if layout == 'MAE':
        tensors = mae_to_mmpretrain(tensors)
    backbone = {
        name[len('backbone.'):]: tensor
        for name, tensor in tensors.items() if name.startswith('backbone.')
    }
    if not backbone:
        found = ('only a decoder' if any(
            name.startswith('neck.') for name in tensors) else
                 f'{len(tensors)} other tensors, the first named '
                 f'{next(iter(tensors), None)!r}')
        raise ValueError(
            f'there is no encoder in it, but {found}. Expected are '
            "mmpretrain's names (backbone.patch_embed.projection.weight, "
            '..., with or without backbone.) or those of MAE '
            '(patch_embed.proj.weight, ...).')
    return backbone, layout


def _rename(name: str, projectors: Dict[str, str]) -> Optional[str]:
    if name in _PARAMETERS:
        return _PARAMETERS[name]
    module, _, kind = name.rpartition('.')
    if kind not in ('weight', 'bias'):
        return None
    new_module = _MODULES.get(module) or projectors.get(module)
    block = re.fullmatch(r'(\w+)\.(\d+)\.(.+)', module)
    if block and block[1] in _BLOCKS and block[3] in _IN_BLOCK:
        new_module = f'{_BLOCKS[block[1]]}.{block[2]}.{_IN_BLOCK[block[3]]}'
    return new_module and f'{new_module}.{kind}'


def _projector_modules(tensors: Tensors) -> Dict[str, str]:
    """Old and new names of the linear layers in the projectors.

    The public code names the layers of an MLP by its modules ('fc1', 'fc2',
    indices in a ``Sequential``); only their order says which is which.
    """
    layers: Dict[str, List[str]] = {}
    for name, tensor in tensors.items():
        match = re.fullmatch(rf'({_PROJECTORS}\.(\d+)(?:\..+)?)\.weight', name)
        if match and tensor.dim() != 1:  # a norm's weight is no layer
            layers.setdefault(match[2], []).append(match[1])
    modules = {}
    for index, found in layers.items():
        if len(found) not in _PROJECTOR_LAYERS:
            raise ValueError(
                f'{_PROJECTORS}.{index} has {len(found)} linear layers. A '
                'projector has 1 (linear), 2 (mlp) or 4 (mlp2).')
        for old, new in zip(
                sorted(found, key=_natural_order),
                _PROJECTOR_LAYERS[len(found)]):
            modules[old] = f'distill_neck.projectors.{index}{new}'
    return modules


def _natural_order(name: str) -> List:
    """Sorts '2' before '10'."""
    return [
        int(part) if part.isdecimal() else part
        for part in re.split(r'(\d+)', name)
    ]
