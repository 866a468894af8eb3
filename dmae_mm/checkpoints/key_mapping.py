"""Names of weights: those of MAE's public files, and mmpretrain's."""
import re
from typing import Dict, Tuple

import torch

Tensors = Dict[str, torch.Tensor]

# MAE (and DMAE's public code, which extends it) -> mmpretrain. The first
# pattern that matches the start of a name is replaced; within blocks the
# second table applies as well.
_PREFIXES = (
    (r'(cls_token|pos_embed)$', r'backbone.\1'),
    (r'patch_embed\.proj\.', 'backbone.patch_embed.projection.'),
    (r'blocks\.(\d+)\.', r'backbone.layers.\1.'),
    (r'norm\.', 'backbone.ln1.'),
    # Only in fine-tuned files: the norm behind average pooling and the head.
    (r'fc_norm\.', 'backbone.ln2.'),
    (r'head\.', 'head.fc.'),
    (r'(mask_token|decoder_pos_embed)$', r'neck.\1'),
    (r'(decoder_embed|decoder_pred)\.', r'neck.\1.'),
    (r'decoder_blocks\.(\d+)\.', r'neck.decoder_blocks.\1.'),
    (r'decoder_norm\.', 'neck.ln1.'),
)
_WITHIN_BLOCKS = (
    (r'\.norm([12])\.', r'.ln\1.'),
    (r'\.mlp\.fc1\.', '.ffn.layers.0.0.'),
    (r'\.mlp\.fc2\.', '.ffn.layers.1.'),
)
_PROJECTOR = r'aligned_feature_projection_heads\.(\d+)\.(.*)(weight|bias)$'
# Number of linear layers in a projector -> their names in
# FeatureProjectionNeck ('linear', 'mlp' and 'mlp2').
_PROJECTOR_LAYERS = {1: ('', ), 2: ('0.', '2.'), 4: ('0.', '2.', '3.', '5.')}


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
    projectors = _projector_names(tensors)
    renamed, unknown = {}, []
    for name, tensor in tensors.items():
        new_name = projectors.get(name) or _rename(name)
        if new_name is None:
            unknown.append(name)
        else:
            renamed[new_name] = tensor
    if unknown:
        raise ValueError(
            f'These tensors belong neither to MAE nor to DMAE: '
            f'{", ".join(unknown[:5])}'
            f'{f" and {len(unknown) - 5} more" * (len(unknown) > 5)}. Expected '
            'names are those of a plain vision transformer with MAE decoder '
            '(cls_token, pos_embed, patch_embed.proj.*, blocks.*, norm.*, '
            'mask_token, decoder_*), aligned_feature_projection_heads.*, '
            'fc_norm.* and head.*.')
    return renamed


def backbone_state_dict(tensors: Tensors) -> Tuple[Tensors, str]:
    """Find the encoder in a checkpoint, under mmpretrain's names.

    Args:
        tensors (dict[str, torch.Tensor]): All weights of a checkpoint.

    Returns:
        tuple[dict, str]: The encoder's weights without prefix, and the
        layout that was recognised: 'mmpretrain', 'mmpretrain backbone' or
        'MAE'.

    Raises:
        ValueError: If there is no encoder in any of these layouts.
    """
    layout = 'mmpretrain'
    if 'patch_embed.projection.weight' in tensors:
        return dict(tensors), 'mmpretrain backbone'
    if 'patch_embed.proj.weight' in tensors:
        tensors, layout = mae_to_mmpretrain(tensors), 'MAE'
    backbone = {
        name[len('backbone.'):]: tensor
        for name, tensor in tensors.items() if name.startswith('backbone.')
    }
    if not backbone:
        decoder = any(
            name.startswith(('decoder_', 'neck.decoder_'))
            for name in tensors)
        found = ('only a decoder' if decoder else
                 f'{len(tensors)} other tensors, the first named '
                 f'{next(iter(tensors))!r}')
        raise ValueError(
            f'there is no encoder in it, but {found}. Expected are '
            "mmpretrain's names (backbone.patch_embed.projection.weight, "
            '..., with or without backbone.) or those of MAE '
            '(patch_embed.proj.weight, ...).')
    return backbone, layout


def _rename(name: str) -> str:
    for pattern, replacement in _PREFIXES:
        if re.match(pattern, name):
            new_name = re.sub('^' + pattern, replacement, name)
            if '.layers.' in new_name or '.decoder_blocks.' in new_name:
                for inner, inner_replacement in _WITHIN_BLOCKS:
                    new_name = re.sub(inner, inner_replacement, new_name)
            return new_name
    return None


def _projector_names(tensors: Tensors) -> Dict[str, str]:
    """New names of the projectors' linear layers, matched in their order.

    The public code names the layers of an MLP by its modules; only their
    order says which is which.
    """
    layers: Dict[str, list] = {}
    for name in tensors:
        match = re.match(_PROJECTOR, name)
        if match and match.group(2) not in layers.setdefault(
                match.group(1), []):
            layers[match.group(1)].append(match.group(2))
    names = {}
    for index, found in layers.items():
        if len(found) not in _PROJECTOR_LAYERS:
            raise ValueError(
                f'aligned_feature_projection_heads.{index} has {len(found)} '
                'linear layers. A projector has 1 (linear), 2 (mlp) or 4 '
                '(mlp2).')
        for old, new in zip(sorted(found), _PROJECTOR_LAYERS[len(found)]):
            for kind in ('weight', 'bias'):
                names[f'aligned_feature_projection_heads.{index}.{old}{kind}'
                      ] = f'distill_neck.projectors.{index}.{new}{kind}'
    return names
