"""The vision transformers of open_clip's and OpenAI's CLIP models."""
import os.path as osp
from dataclasses import dataclass, replace
from typing import Any, Dict, Optional

from dmae_mm.options import is_finite_number

from ..model_folder import description
from ..names import under_prefix
from ..origin import IMAGENET_MEAN, IMAGENET_STD, Origin
from ..tensor_file import TensorFile
from .format import Format, Normalisation
from .renaming import rename, table
from .towers import Sizes, choose_prefix, others, prefixes_of

# What open_clip keeps beside its weights.
CONFIG = 'open_clip_config.json'
_OPENAI = Normalisation(
    tuple(255 * value for value in (.48145466, .4578275, .40821073)),
    tuple(255 * value for value in (.26862954, .26130258, .27577711)))
# In open_clip's list of weights (pretrained.py): CLIPA, and LAION's first
# ViT-L/14.
_OTHERS = (Normalisation(IMAGENET_MEAN, IMAGENET_STD),
           Normalisation((127.5, ) * 3, (127.5, ) * 3))
# Numbers that OpenAI's models keep among their weights, and no others.
_OPENAIS_NUMBERS = {'input_resolution', 'context_length', 'vocab_size'}

_BLOCK = 'transformer.resblocks.'
# Behind `blocks.`, which stands for `_BLOCK`.
_NAMES = table('''
    class_embedding               cls_token
    positional_embedding          pos_embed
    conv1.*                       patch_embed.proj.*
    ln_pre.*                      norm_pre.*
    blocks.#.ln_1.*               blocks.#.norm1.*
    blocks.#.attn.in_proj_weight  blocks.#.attn.qkv.weight
    blocks.#.attn.in_proj_bias    blocks.#.attn.qkv.bias
    blocks.#.attn.out_proj.*      blocks.#.attn.proj.*
    blocks.#.ls_1.gamma           blocks.#.ls1.gamma
    blocks.#.ln_2.*               blocks.#.norm2.*
    blocks.#.mlp.c_fc.*           blocks.#.mlp.fc1.*
    blocks.#.mlp.c_proj.*         blocks.#.mlp.fc2.*
    blocks.#.ls_2.gamma           blocks.#.ls2.gamma
''')
_BEHIND_THE_BLOCKS = ('ln_post.', 'proj', 'attn_pool.',
                      'attn_pool_contrastive.')
_MODELS = {
    (768, 12, 32): 'vit_base_patch32_clip{}_224',
    (768, 12, 16): 'vit_base_patch16_clip{}_224',
    (1024, 24, 14): 'vit_large_patch14_clip{}_224',
    (1280, 32, 14): 'vit_huge_patch14_clip{}_224',
    (1408, 40, 14): 'vit_giant_patch14_clip{}_224',
    (1664, 48, 14): 'vit_gigantic_patch14_clip{}_224',
}
_SUFFIXES = dict(gelu='', quick_gelu='_quickgelu')


def recognise(file: TensorFile) -> Optional[Format]:
    """A CLIP of open_clip or OpenAI, or its vision tower; None for all else.

    The activation in the blocks, GELU or QuickGELU, shows neither in names
    nor in shapes. It is known where an ``open_clip_config.json`` lies in the
    same folder, and of OpenAI's own files as long as they hold the numbers
    that OpenAI keeps among the weights. Otherwise the caller's counts.

    Raises:
        ValueError: If the vision tower has parts that timm's has not, or the
            config makes no sense.
    """
    tensors = file.tensors
    trunks = prefixes_of(tensors, 'visual.trunk.patch_embed.proj.weight')
    if trunks:  # of timm
        prefix = f'{choose_prefix(trunks)}visual.trunk.'
        said = _described(file)
        return Format(
            name='a model of open_clip with a vision tower of timm',
            tensors=under_prefix(tensors, prefix),
            origin=said.origin if said else Origin(),
            ignored=others(tensors, prefix))
    prefixes = [
        prefix for prefix in prefixes_of(tensors, 'class_embedding',
                                         'conv1.weight', 'proj')
        # The Perception Encoder has these names, too, and timm converts it.
        if f'{prefix}attn_pool.probe' not in tensors
    ]
    if not prefixes:
        return None
    prefix = choose_prefix(prefixes)
    renamed, left = rename(
        {
            name.replace(_BLOCK, 'blocks.', 1): tensor
            for name, tensor in under_prefix(tensors, prefix).items()
            if name not in _OPENAIS_NUMBERS
        }, _NAMES, _BEHIND_THE_BLOCKS)
    renamed['cls_token'] = renamed['cls_token'].view(1, 1, -1)
    renamed['pos_embed'] = renamed['pos_embed'].unsqueeze(0)
    if 'norm_pre.weight' not in renamed:  # CLIPA; timm then has a bias
        renamed['patch_embed.proj.bias'] = renamed['cls_token'].new_zeros(
            renamed['cls_token'].shape[-1])
    is_openais = _OPENAIS_NUMBERS <= tensors.keys()
    said = _described(file) or _Described(
        act_layer='quick_gelu' if is_openais else None)
    model_name, model_kwargs = Sizes.of(renamed).model(_MODELS)
    if said.act_layer not in _SUFFIXES or 'norm_pre.weight' not in renamed:
        model_name, model_kwargs = None, {}
    origin, also = said.origin, ()
    if origin.mean is None:
        origin = replace(
            origin,
            **_OPENAI._asdict(),
            said_by="CLIP's transforms, since no file says its own")
        also = () if is_openais else _OTHERS
    return Format(
        name="OpenAI's CLIP" if is_openais else 'a CLIP of open_clip',
        tensors=renamed,
        model_name=model_name and model_name.format(
            _SUFFIXES[said.act_layer]),
        model_kwargs=model_kwargs,
        norm_eps=said.norm_eps,
        act_layer=said.act_layer,
        origin=origin,
        other_normalisations=also,
        ignored=others(tensors, prefix) + left)


@dataclass(frozen=True)
class _Described:
    """What open_clip's config says that names and shapes do not show."""
    act_layer: Optional[str] = None
    norm_eps: float = 1e-5
    origin: Origin = Origin()


def _described(file: TensorFile) -> Optional[_Described]:
    config = description(file.folder, CONFIG)
    if config is None:
        return None
    path = osp.join(file.folder, CONFIG)
    model, images = (_dict_in(config, name, path)
                     for name in ('model_cfg', 'preprocess_cfg'))
    vision = _dict_in(model, 'vision_cfg', path)
    act_layer = 'quick_gelu' if model.get('quick_gelu') is True else 'gelu'
    if _dict_in(vision, 'act_kwargs', path).get('approximate') == 'tanh':
        act_layer = 'gelu_tanh'
    norm_eps = _dict_in(vision, 'norm_kwargs', path).get('eps', 1e-5)
    mean, std = images.get('mean'), images.get('std')
    if mean is None or std is None:
        normalisation = {}
    elif (not isinstance(mean, list) or not isinstance(std, list)
          or not len(mean) == len(std) > 0
          or not all(map(is_finite_number, [*mean, *std])) or min(std) <= 0):
        raise ValueError(f'{path} says mean={mean!r} and std={std!r}: '
                         'expected are lists of one number a channel, of std '
                         'above zero')
    else:
        normalisation = dict(
            mean=tuple(255 * value for value in mean),
            std=tuple(255 * value for value in std))
    width, head = vision.get('width', 768), vision.get('head_width', 64)
    if not is_finite_number(norm_eps) or norm_eps <= 0 or not all(
            type(value) is int and value > 0 for value in (width, head)):
        raise ValueError(
            f'{path} says width={width!r}, head_width={head!r} and eps='
            f'{norm_eps!r} of the norms: expected are numbers above zero')
    return _Described(
        act_layer, norm_eps,
        Origin(
            num_heads=None if 'timm_model_name' in vision else width // head,
            said_by=f'the {CONFIG} beside it',
            **normalisation))


def _dict_in(config: Dict[str, Any], name: str, path: str) -> Dict[str, Any]:
    found = config.get(name)
    if found is not None and not isinstance(found, dict):
        raise ValueError(f'{path} says {name}={found!r:.80}, which is no '
                         'object')
    return found or {}
