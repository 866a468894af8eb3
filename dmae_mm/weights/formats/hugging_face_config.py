"""What a ``config.json`` of Hugging Face transformers says of a model."""
from dataclasses import dataclass
from typing import Any, Dict, Optional, Tuple

from dmae_mm.options import is_finite_number

from ..origin import Origin

# What transformers takes for options that a file does not have.
_DEFAULTS = dict(
    hidden_size=768,
    num_hidden_layers=12,
    num_attention_heads=12,
    intermediate_size=3072,
    hidden_act='gelu',
    layer_norm_eps=1e-12,
    image_size=224,
    patch_size=16,
    num_channels=3,
    qkv_bias=True)
_DINOV2 = dict(
    _DEFAULTS, layer_norm_eps=1e-6, mlp_ratio=4, use_swiglu_ffn=False)


@dataclass(frozen=True)
class _Family:
    """One ``model_type``: its name, a model of timm, and its defaults."""
    name: str
    model_name: str
    defaults: Dict[str, Any]


FAMILIES = dict(
    vit=_Family('ViT', 'vit_base_patch16_224', _DEFAULTS),
    deit=_Family('DeiT', 'deit_base_distilled_patch16_224', _DEFAULTS),
    vit_mae=_Family('ViT-MAE', 'vit_base_patch16_224', _DEFAULTS),
    dinov2=_Family('DINOv2', 'vit_base_patch14_dinov2',
                   dict(_DINOV2, patch_size=14)),
    dinov2_with_registers=_Family('DINOv2 with registers',
                                  'vit_base_patch14_reg4_dinov2',
                                  dict(_DINOV2, num_register_tokens=4)),
    dinov3_vit=_Family(
        'DINOv3', 'vit_base_patch16_dinov3',
        dict(
            _DEFAULTS,
            hidden_size=384,
            num_attention_heads=6,
            intermediate_size=1536,
            layer_norm_eps=1e-5,
            num_register_tokens=0,
            rope_theta=100.,
            query_bias=True,
            value_bias=True,
            use_gated_mlp=False)),
    clip=_Family(
        'CLIP', 'vit_base_patch16_clip_quickgelu_224',
        dict(
            _DEFAULTS,
            patch_size=32,
            hidden_act='quick_gelu',
            layer_norm_eps=1e-5)),
    siglip=_Family(
        'SigLIP', 'vit_base_patch16_siglip_224',
        dict(
            _DEFAULTS, hidden_act='gelu_pytorch_tanh', layer_norm_eps=1e-6)))
# The same under the names of their parts.
_PARTS = dict(clip_vision_model='clip', siglip_vision_model='siglip')
_TEXT = dict(clip_text_model='CLIP', siglip_text_model='SigLIP')
# timm's names of activations.
_ACTIVATIONS = dict(
    gelu='gelu',
    quick_gelu='quick_gelu',
    gelu_pytorch_tanh='gelu_tanh',
    gelu_new='gelu_tanh',
    relu='relu',
    silu='silu',
    swish='silu')


@dataclass(frozen=True)
class Architecture:
    """What a config describes.

    Attributes:
        family (str): A key of :data:`FAMILIES`.
        model_name (str): Of timm.
        model_kwargs (dict): Further arguments of ``timm.create_model``.
        norm_eps (float): See :class:`Format`, as the next.
        act_layer (str): timm's name of the activation.
        origin (Origin): Without normalisation.
    """
    family: str
    model_name: str
    model_kwargs: Dict[str, Any]
    norm_eps: float
    act_layer: str
    origin: Origin


def architecture(config: Dict[str, Any], path: str) -> Architecture:
    """Read the content of a ``config.json``.

    Args:
        config (dict): Its content. Of a whole CLIP or SigLIP, the vision
            tower's part is read.
        path (str): Where it lies, for errors.

    Returns:
        Architecture: The model of timm that computes the same.

    Raises:
        ValueError: If it is of a model that cannot be converted, which is
            named, or an option makes no sense.
    """
    family, config = _family(config, path)
    said = dict(FAMILIES[family].defaults)
    said.update({
        name: config[name]
        for name in said if config.get(name) is not None
    })
    for name, default in FAMILIES[family].defaults.items():
        _check(name, said[name], default, path)
    width = said['hidden_size']
    if width % said['num_attention_heads']:
        raise ValueError(f'{path} says hidden_size={width}, which its '
                         f'num_attention_heads={said["num_attention_heads"]} '
                         'do not divide')
    kwargs = dict(
        img_size=_pair(said['image_size']),
        patch_size=_pair(said['patch_size']),
        embed_dim=width,
        depth=said['num_hidden_layers'],
        num_heads=said['num_attention_heads'],
        num_classes=0)
    if said['num_channels'] != 3:
        kwargs['in_chans'] = said['num_channels']
    model_name = FAMILIES[family].model_name
    act_layer = _ACTIVATIONS[said['hidden_act']]
    hidden = said['intermediate_size']
    if family == 'dinov3_vit':
        kwargs.update(
            num_reg_tokens=said['num_register_tokens'],
            rope_temperature=said['rope_theta'],
            qkv_bias=said['query_bias'] or said['value_bias'])
        gated = said['use_gated_mlp']
        if gated:  # 1: as many as are said
            kwargs.update(swiglu_mlp=True, swiglu_align_to=1)
        wanted = 'silu' if gated else 'gelu'
        if act_layer != wanted:
            raise ValueError(
                f'{path} says hidden_act={said["hidden_act"]!r} and '
                f'use_gated_mlp={gated}; timm has only DINOv3 with '
                f'hidden_act={wanted!r} then')
    else:
        kwargs['qkv_bias'] = said['qkv_bias']
        kwargs['act_layer'] = act_layer
    if family.startswith('dinov2'):
        hidden = int(width * said['mlp_ratio'])
        if family == 'dinov2_with_registers':
            kwargs['reg_tokens'] = said['num_register_tokens']
        if said['use_swiglu_ffn']:
            model_name = model_name.replace('_base_', '_giant_')
            hidden = (int(hidden * 2 / 3) + 7) // 8 * 8 * 2
            act_layer = kwargs['act_layer'] = 'silu'
    # timm rounds down.
    ratio = hidden / width
    kwargs['mlp_ratio'] = (
        ratio if int(width * ratio) == hidden else (hidden + .5) / width)
    return Architecture(
        family, model_name, kwargs, float(said['layer_norm_eps']), act_layer,
        Origin(
            img_size=_two(said['image_size']),
            patch_size=_two(said['patch_size']),
            num_heads=said['num_attention_heads'],
            said_by=path))


def normalisation(
    said: Optional[Dict[str, Any]], path: str
) -> Tuple[Optional[Tuple[float, ...]], Optional[Tuple[float, ...]]]:
    """Mean and std in a ``preprocessor_config.json``.

    Args:
        said (dict, optional): Its content.
        path (str): Where it lies, for errors.

    Returns:
        tuple: Mean and std for pixel values from 0 to 255; None for each if
        it does not say them.

    Raises:
        ValueError: If they make no sense.
    """
    if said is None:
        return None, None
    scale = said.get('rescale_factor')
    scale = 1 / 255 if scale is None else scale
    if said.get('do_rescale') is False:
        scale = 1
    mean, std = said.get('image_mean'), said.get('image_std')
    if said.get('do_normalize') is False:
        mean, std = [0.], [1.]
    if mean is None or std is None:
        return None, None
    mean, std = (value if isinstance(value, list) else [value]
                 for value in (mean, std))
    numbers = [*mean, *std, scale]
    if not mean or len(mean) != len(std) or not all(
            map(is_finite_number, numbers)) or min(*std, scale) <= 0:
        raise ValueError(
            f'{path} says image_mean={said.get("image_mean")!r}, image_std='
            f'{said.get("image_std")!r}, rescale_factor='
            f'{said.get("rescale_factor")!r}: expected are one number a '
            'channel, of std above zero, and a factor above zero')
    return (tuple(value / scale for value in mean),
            tuple(value / scale for value in std))


def article_and_name(family: str) -> str:
    """For messages: 'a Hugging Face ViT'."""
    return f'a Hugging Face {FAMILIES[family].name}'


def _family(config: Dict[str, Any], path: str) -> Tuple[str, Dict[str, Any]]:
    """The family, and the part of the config that describes its encoder."""
    said = config.get('model_type')
    kind = _PARTS.get(said, said) if isinstance(said, str) else None
    if kind in _TEXT:
        raise ValueError(f'it is a Hugging Face {_TEXT[kind]} text model (by '
                         f'{path}), which sees no images')
    if kind not in FAMILIES:
        classes = config.get('architectures')
        named = (f' ({classes[0]})' if isinstance(classes, list) and classes
                 and isinstance(classes[0], str) else '')
        raise ValueError(
            f'it is a Hugging Face model of type {said!r:.80}{named[:80]}, by '
            f'{path}, which cannot be converted. Those of these types can: '
            f'{", ".join([*FAMILIES, *_PARTS])}')
    tower = config.get('vision_config')
    if said in ('clip', 'siglip'):
        if tower is not None and not isinstance(tower, dict):
            raise ValueError(f'{path} says vision_config={tower!r}, which is '
                             'no description of a vision tower')
        config = tower or {}
    return kind, config


def _check(name: str, value: Any, default: Any, path: str) -> None:
    """Refuse a value that an option cannot have."""
    if name in ('image_size', 'patch_size'):
        legal = _two(value) is not None
        wanted = 'a number of pixels, or two'
    elif isinstance(default, bool):
        legal, wanted = isinstance(value, bool), 'true or false'
    elif name == 'hidden_act':
        legal = isinstance(value, str) and value in _ACTIVATIONS
        wanted = f'one of {list(_ACTIVATIONS)}'
    elif name == 'num_register_tokens':
        legal = type(value) is int and 0 <= value <= 1 << 10
        wanted = 'a number of tokens'
    elif name in ('layer_norm_eps', 'rope_theta', 'mlp_ratio'):
        legal = is_finite_number(value) and value > 0
        wanted = 'a number above zero'
    else:
        legal = type(value) is int and 1 <= value <= 1 << 16
        wanted = 'a number from 1 to 65536'
    if not legal:
        raise ValueError(f'{path} says {name}={value!r:.100}; expected is '
                         f'{wanted}')


def _two(value: Any) -> Optional[Tuple[int, int]]:
    """Height and width, of two numbers or one; None of anything else."""
    if type(value) is int:
        value = (value, value)
    if isinstance(value, (list, tuple)) and len(value) == 2 and all(
            type(side) is int and 1 <= side <= 1 << 16 for side in value):
        return tuple(value)
    return None


def _pair(value: Any) -> Any:
    """One number for a square."""
    height, width = _two(value)
    return height if height == width else [height, width]
