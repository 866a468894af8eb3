"""Names of weights: mmpretrain's, and those of timm and MAE's files."""
import re
from typing import Dict, List, Optional, Tuple

from dmae_mm.messages import first_few

from .tensor_file import Tensors


def _table(text: str) -> Dict[str, str]:
    """Old and new names in lines; * stands for weight and bias."""
    lines = (line.split() for line in text.strip().splitlines())
    return {
        old.replace('*', kind): new.replace('*', kind)
        for old, new in lines for kind in ('weight', 'bias')
    }


# The encoder: timm's names, which are also those of MAE (and of DMAE's public
# code, which extends it), and mmpretrain's. # is the number of a block.
_FROM_TIMM = _table('''
    cls_token               cls_token
    pos_embed               pos_embed
    patch_embed.proj.*      patch_embed.projection.*
    norm_pre.*              pre_norm.*
    blocks.#.norm1.*        layers.#.ln1.*
    blocks.#.attn.qkv.*     layers.#.attn.qkv.*
    blocks.#.attn.proj.*    layers.#.attn.proj.*
    blocks.#.ls1.gamma      layers.#.attn.gamma1.weight
    blocks.#.norm2.*        layers.#.ln2.*
    blocks.#.mlp.fc1.*      layers.#.ffn.layers.0.0.*
    blocks.#.mlp.fc2.*      layers.#.ffn.layers.1.*
    blocks.#.ls2.gamma      layers.#.ffn.gamma2.weight
    norm.*                  ln1.*
    fc_norm.*               ln2.*
''')  # the last one is behind average pooling
_TO_TIMM = {new: old for old, new in _FROM_TIMM.items()}
# What else is in MAE's files: the decoder, a fine-tuned model's classifier.
_BESIDE_ENCODER = _table('''
    mask_token                    neck.mask_token
    decoder_pos_embed             neck.decoder_pos_embed
    decoder_embed.*               neck.decoder_embed.*
    decoder_blocks.#.norm1.*      neck.decoder_blocks.#.ln1.*
    decoder_blocks.#.attn.qkv.*   neck.decoder_blocks.#.attn.qkv.*
    decoder_blocks.#.attn.proj.*  neck.decoder_blocks.#.attn.proj.*
    decoder_blocks.#.ls1.gamma    neck.decoder_blocks.#.attn.gamma1.weight
    decoder_blocks.#.norm2.*      neck.decoder_blocks.#.ln2.*
    decoder_blocks.#.mlp.fc1.*    neck.decoder_blocks.#.ffn.layers.0.0.*
    decoder_blocks.#.mlp.fc2.*    neck.decoder_blocks.#.ffn.layers.1.*
    decoder_blocks.#.ls2.gamma    neck.decoder_blocks.#.ffn.gamma2.weight
    decoder_norm.*                neck.ln1.*
    decoder_pred.*                neck.decoder_pred.*
    head.*                        head.fc.*
''')
_PROJECTORS = 'aligned_feature_projection_heads'
# Number of linear layers in a projector -> their names in
# FeatureProjectionNeck ('linear', 'mlp' and 'mlp2').
_PROJECTOR_LAYERS = {1: ('', ), 2: ('.0', '.2'), 4: ('.0', '.2', '.3', '.5')}

# What is in front of timm's own names in a TIMMBackbone or MaskedTimmViT.
TIMM_MODEL = 'timm_model.'

# By which names a layout is recognised; the first that applies.
_LAYOUTS = {
    'mmpretrain': ('backbone.', 'neck.'),
    'mmpretrain backbone': ('layers.', 'patch_embed.projection.', TIMM_MODEL),
    'timm/MAE': ('blocks.', 'patch_embed.proj.', 'decoder_'),
}

# In checkpoints, but computed from the grid of patches and never learnt.
COMPUTED = re.compile(r'(.*\.)?(relative_position_index|rope\.freqs_\w+|'
                      r'relative_coords_table|attn_mask)')


def layout_of(tensors: Tensors) -> Optional[str]:
    """Whose names a checkpoint uses.

    Returns:
        str | None: 'mmpretrain' for a whole model, 'mmpretrain backbone' for
        a backbone alone, 'timm/MAE', or None for none of these.
    """
    for layout, beginnings in _LAYOUTS.items():
        if any(name.startswith(beginnings) for name in tensors):
            return layout
    return None


def under_prefix(tensors: Tensors, prefix: str) -> Tensors:
    """The tensors whose names begin with ``prefix``, without it."""
    return {
        name[len(prefix):]: tensor
        for name, tensor in tensors.items() if name.startswith(prefix)
    }


def timm_model_state_dict(tensors: Tensors) -> Tensors:
    """The weights of a model of timm that is a backbone in mmpretrain.

    Args:
        tensors (dict[str, torch.Tensor]): All weights of a checkpoint, or
            those of the backbone.

    Returns:
        dict[str, torch.Tensor]: Under timm's own names; {} if it is none.
    """
    return (under_prefix(tensors, f'backbone.{TIMM_MODEL}')
            or under_prefix(tensors, TIMM_MODEL))


def backbone_to_timm(tensors: Tensors) -> Tensors:
    """Rename the weights of a plain vision transformer for timm.

    Args:
        tensors (dict[str, torch.Tensor]): Weights of mmpretrain's MAEViT,
            VisionTransformer or DeiT3, without ``backbone.``.

    Returns:
        dict[str, torch.Tensor]: The same tensors under the names of timm's
        VisionTransformer.

    Raises:
        ValueError: If timm has no name for one of them.
    """
    return _renamed(
        tensors, _TO_TIMM, "are not among mmpretrain's names for a plain "
        'vision transformer')


def backbone_from_timm(tensors: Tensors) -> Tensors:
    """Rename the weights of timm's VisionTransformer for mmpretrain.

    The reverse of :func:`backbone_to_timm`, without ``head.*``.
    """
    return _renamed(
        tensors, _FROM_TIMM, "are not among timm's names for a plain vision "
        'transformer')


def backbone_to_mmseg(tensors: Tensors) -> Tensors:
    """Rename the weights of a plain vision transformer for mmseg's MAE.

    Those of mmpretrain's MAEViT or VisionTransformer, without ``backbone.``;
    only layer scale has another name in mmseg.
    """
    return {
        name.replace('attn.gamma1.weight', 'gamma_1').replace(
            'ffn.gamma2.weight', 'gamma_2'): tensor
        for name, tensor in tensors.items()
    }


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
    backbone = {old: f'backbone.{new}' for old, new in _FROM_TIMM.items()}
    return _renamed(
        tensors, {
            **backbone,
            **_BESIDE_ENCODER,
            **_projector_names(tensors)
        }, 'belong neither to MAE nor to DMAE', f'{_PROJECTORS}.*')


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
    if layout == 'timm/MAE':
        tensors = mae_to_mmpretrain(tensors)
    backbone = under_prefix(tensors, 'backbone.')
    if backbone:
        return backbone, layout
    found = 'only a decoder'
    if not any(name.startswith('neck.') for name in tensors):
        found = (f'{len(tensors)} other tensors, the first named '
                 f'{next(iter(tensors), None)!r}')
    raise ValueError(
        f'there is no encoder in it, but {found}. Expected are '
        "mmpretrain's names (backbone.patch_embed.projection.weight, "
        '..., with or without backbone.) or those of timm and MAE '
        '(patch_embed.proj.weight, ...).')


def _renamed(tensors: Tensors,
             new_names: Dict[str, str],
             complaint: str,
             *more_names: str) -> Tensors:
    renamed, unknown = {}, []
    for name, tensor in tensors.items():
        block = re.fullmatch(r'(layers|(?:decoder_)?blocks)\.(\d+)\.(.+)',
                             name)
        key = f'{block[1]}.#.{block[3]}' if block else name
        if key in new_names and '#' not in name:
            number = block[2] if block else ''
            renamed[new_names[key].replace('#', number)] = tensor
        else:
            unknown.append(name)
    if unknown:
        known = (re.sub(r'\.(#|\d|weight$|bias$).*', '.*', name)
                 for name in new_names)
        expected = dict.fromkeys([*known, *more_names])
        raise ValueError(f'These tensors {complaint}: {first_few(unknown)}. '
                         f'Expected names are {", ".join(expected)}.')
    return renamed


def _projector_names(tensors: Tensors) -> Dict[str, str]:
    """Old and new names of the weights in the projectors.

    The public code names the layers of an MLP by its modules ('fc1', 'fc2',
    indices in a ``Sequential``); only their order says which is which.
    """
    layers: Dict[str, List[str]] = {}
    for name, tensor in tensors.items():
        match = re.fullmatch(rf'({_PROJECTORS}\.(\d+)(?:\..+)?)\.weight', name)
        if match and tensor.dim() != 1:  # a norm's weight is no layer
            layers.setdefault(match[2], []).append(match[1])
    names = {}
    for index, found in layers.items():
        if len(found) not in _PROJECTOR_LAYERS:
            raise ValueError(
                f'{_PROJECTORS}.{index} has {len(found)} linear layers. A '
                'projector has 1 (linear), 2 (mlp) or 4 (mlp2).')
        found.sort(key=_natural_order)
        for old, new in zip(found, _PROJECTOR_LAYERS[len(found)]):
            for kind in ('weight', 'bias'):
                names[f'{old}.{kind}'] = (
                    f'distill_neck.projectors.{index}{new}.{kind}')
    return names


def _natural_order(name: str) -> List:
    """Sorts '2' before '10'."""
    return [
        int(part) if part.isdecimal() else part
        for part in re.split(r'(\d+)', name)
    ]
