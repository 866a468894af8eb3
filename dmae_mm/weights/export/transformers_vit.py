"""A plain vision transformer as Hugging Face transformers have it."""
import re
from dataclasses import dataclass
from typing import Any, Dict, List, Tuple, Union

import torch

from ..formats.hugging_face_names import LAYOUTS
from ..names import backbone_to_timm
from ..tensor_file import Tensors
from .export_format import int_if_square
from .trained_model import TrainedModel
from .vit_architecture import NamedArchitecture, ViTArchitecture

_CLASSES = dict(
    vit='ViTModel',
    dinov2='Dinov2Model',
    dinov2_with_registers='Dinov2WithRegistersModel')


@dataclass(frozen=True)
class TransformersViT:
    """A model of transformers' own.

    Attributes:
        config (dict): What its ``config.json`` says.
        tensors (dict[str, torch.Tensor]): Its weights.
    """
    config: Dict[str, Any]
    tensors: Tensors


def transformers_vit(model: TrainedModel) -> Union[TransformersViT, str]:
    """What transformers' ViT, DINOv2 or DINOv2 with registers computes alike.

    Layer scale is DINOv2's, registers those of the third. Where CLS has no
    position, it gets one of zeros. ViT's pooler, which is a layer of its own,
    hands the CLS token through.

    Args:
        model (TrainedModel): The model.

    Returns:
        TransformersViT | str: Or why none of them does.
    """
    arch, weights = model.arch, model.tensors
    if isinstance(arch, NamedArchitecture):
        try:
            arch = ViTArchitecture.of_timm(model.backbone)
        except ValueError as error:
            return str(error)
    elif isinstance(arch, ViTArchitecture):
        weights = backbone_to_timm(weights)
    else:
        return 'its maps were trained, not its tokens'
    weights = dict(weights)
    registers = weights.pop('reg_token', None)
    family = ('dinov2_with_registers' if registers is not None else
              'dinov2' if arch.layer_scale else 'vit')
    reasons = _inexpressible(arch, family)
    if reasons:
        return f'{_CLASSES[family]} cannot express {"; ".join(reasons)}'
    tensors = _embeddings(weights, registers, arch)
    tensors.update(_one_each(weights))
    if family != 'vit' and not arch.layer_scale:
        for block in range(arch.num_layers):
            for i in '12':
                tensors[f'blocks.{block}.ls{i}.gamma'] = torch.ones(
                    arch.embed_dims)
    names = {timm: own for own, timm in LAYOUTS[family].names.items()
             if '.mlp.weights_' not in own and timm != 'dist_token'}
    renamed, unknown = {}, []
    for name, tensor in tensors.items():
        block = re.match(r'blocks\.(\d+)\.', name)
        number = block[1] if block else ''
        own = names.get(
            f'blocks.#.{name[block.end():]}' if block else name)
        if own is None:
            unknown.append(name)
        else:
            renamed[own.replace('#', number)] = tensor
    if unknown:
        return f'{_CLASSES[family]} has no names for {", ".join(unknown[:3])}'
    zeros = torch.zeros(arch.embed_dims)
    if family == 'vit':
        renamed.update({'pooler.dense.weight': torch.eye(arch.embed_dims),
                        'pooler.dense.bias': zeros})
    else:
        renamed['embeddings.mask_token'] = zeros[None]
    return TransformersViT(_config(arch, family, registers), renamed)


def _inexpressible(arch: ViTArchitecture, family: str) -> List[str]:
    height, width = arch.img_size
    found = {
        'no CLS token': not arch.cls_token,
        'pre_norm': arch.pre_norm,
        'no norm behind the blocks': not arch.final_norm or arch.pooled_norm,
    }
    if family != 'vit':
        found.update({
            f'images of {height} x {width} px': height != width,
            f'feedforward_channels={arch.feedforward_channels}':
            arch.feedforward_channels % arch.embed_dims,
        })
    return [what for what, is_there in found.items() if is_there]


def _embeddings(weights: Tensors, registers: Any,
                arch: ViTArchitecture) -> Tensors:
    """Takes the tokens and positions out of the weights: transformers' are
    of CLS and patches."""
    positions = weights.pop('pos_embed')
    num_patches = (arch.img_size[0] // arch.patch_size[0]) * (
        arch.img_size[1] // arch.patch_size[1])
    prefix, patches = (positions[:, :-num_patches],
                       positions[:, -num_patches:])
    found = dict(cls_token=weights.pop('cls_token'))
    if registers is not None:
        of_registers = prefix[:, 1:]
        found['reg_token'] = registers + (
            of_registers if of_registers.shape[1] else 0)
    of_cls = prefix[:, :1] if prefix.shape[1] else torch.zeros_like(
        positions[:, :1])
    found['pos_embed'] = torch.cat([of_cls, patches], 1)
    return found


def _one_each(weights: Tensors) -> Tensors:
    """With a weight and a bias for each of q, k and v."""
    found = {}
    for name, tensor in weights.items():
        if '.attn.qkv.' not in name:
            found[name] = tensor
            continue
        for kind, part in zip('qkv', tensor.chunk(3)):
            found[name.replace('.qkv.', f'.{kind}.')] = part
    return found


def _config(arch: ViTArchitecture, family: str,
            registers: Any) -> Dict[str, Any]:
    config = dict(
        model_type=family,
        architectures=[_CLASSES[family]],
        hidden_size=arch.embed_dims,
        num_hidden_layers=arch.num_layers,
        num_attention_heads=arch.num_heads,
        hidden_act='gelu',
        hidden_dropout_prob=0.,
        attention_probs_dropout_prob=0.,
        layer_norm_eps=arch.norm_eps,
        image_size=_plain(arch.img_size),
        patch_size=_plain(arch.patch_size),
        num_channels=arch.in_channels,
        qkv_bias=arch.qkv_bias)
    ratio = arch.feedforward_channels // arch.embed_dims
    if family == 'vit':
        config.update(
            intermediate_size=arch.feedforward_channels,
            pooler_output_size=arch.embed_dims,
            pooler_act='linear')
    else:
        config.update(mlp_ratio=ratio, use_swiglu_ffn=False)
    if registers is not None:
        config['num_register_tokens'] = registers.shape[1]
    return config


def _plain(size: Tuple[int, int]) -> Union[int, List[int]]:
    size = int_if_square(size)
    return size if isinstance(size, int) else list(size)
