"""What a plain vision transformer of mmpretrain or timm computes."""
from dataclasses import dataclass
from typing import Any, Dict, List, Tuple

import timm
import torch
import torch.nn as nn
from mmpretrain.models import DeiT3, VisionTransformer
from mmpretrain.models.selfsup import MAEViT
from timm.models import vision_transformer

# Exactly these: a subclass may compute something else.
BACKBONES = (MAEViT, VisionTransformer, DeiT3)


@dataclass(frozen=True)
class ViTArchitecture:
    """What has to be equal for two models to compute the same."""

    img_size: Tuple[int, int]  # height and width in pixels, as of patches
    patch_size: Tuple[int, int]
    in_channels: int
    embed_dims: int
    num_layers: int
    num_heads: int
    feedforward_channels: int  # hidden width of a block's MLP
    qkv_bias: bool
    layer_scale: bool  # whether blocks scale what they add
    # Whether a norm comes before the blocks; the patch embedding has no bias
    # then.
    pre_norm: bool
    cls_token: bool
    deit3: bool  # whether there is a CLS token without position
    final_norm: bool  # whether a norm of each token follows the blocks
    pooled_norm: bool  # or one of the average of all patches
    norm_eps: float  # of all norms
    # Whether a classifier gets the average of all patches behind the final
    # norm.
    averages: bool = False

    @classmethod
    def of_mmpretrain(cls, backbone: nn.Module) -> 'ViTArchitecture':
        """Describe a ``MAEViT``, ``VisionTransformer`` or ``DeiT3``.

        Raises:
            ValueError: If it is another class, or is built in a way that is
                not described here.
        """
        if type(backbone) not in BACKBONES:
            raise ValueError(
                f'The backbone {type(backbone).__name__} cannot be exported. '
                'Possible are '
                f'{", ".join(known.__name__ for known in BACKBONES)}. '
                "OpenMMLab's configs load its checkpoint as it is: init_cfg="
                "dict(type='Pretrained', checkpoint=..., prefix='backbone.'). "
                'For all else, train a student of timm: backbone=dict(type='
                "'TIMMBackbone', model_name=...)")
        conv, block = backbone.patch_embed.projection, backbone.layers[0]
        pre_norm = isinstance(
            getattr(backbone, 'pre_norm', None), nn.LayerNorm)
        problems = []
        if (conv.stride != conv.kernel_size or any(conv.padding)
                or conv.dilation != (1, 1)
                or backbone.patch_embed.norm is not None
                or (conv.bias is None) != pre_norm):
            problems.append('patch_cfg')
        if backbone.out_type == 'avg_featmap' and not hasattr(backbone, 'ln2'):
            problems.append("out_type='avg_featmap', for which it has no norm")
        if any(getattr(layer.ffn, 'num_fcs', None) != 2
               for layer in backbone.layers):
            problems.append('an FFN other than two linear layers')
        img_size = tuple(backbone.img_size)
        problems += _unusual_parts(backbone, img_size, conv.kernel_size)
        refuse(f'{type(backbone).__name__} cannot be exported with', problems)
        return cls(
            img_size=img_size,
            patch_size=conv.kernel_size,
            in_channels=conv.in_channels,
            embed_dims=backbone.embed_dims,
            num_layers=backbone.num_layers,
            num_heads=block.attn.num_heads,
            feedforward_channels=block.ffn.feedforward_channels,
            qkv_bias=block.attn.qkv.bias is not None,
            layer_scale=not isinstance(block.attn.gamma1, nn.Identity),
            pre_norm=pre_norm,
            cls_token=backbone.cls_token is not None,
            deit3=type(backbone) is DeiT3 and backbone.cls_token is not None,
            final_norm=backbone.final_norm,
            pooled_norm=hasattr(backbone, 'ln2'),
            norm_eps=block.ln1.eps)

    @classmethod
    def of_timm(cls, model: nn.Module) -> 'ViTArchitecture':
        """Describe a model of timm, up to its classifier.

        Parts with weights of their own that are not described here are left
        for the names of these weights to tell.

        Raises:
            ValueError: If it is not timm's plain ``VisionTransformer``, or
                is built in a way that is not described here.
        """
        if type(model) is not vision_transformer.VisionTransformer:
            raise ValueError(
                f'A {type(model).__name__} cannot be exported. Possible is '
                "timm's VisionTransformer.")
        block = model.blocks[0]
        pooled_norm = isinstance(model.fc_norm, nn.LayerNorm)
        problems = []
        if type(block) is not vision_transformer.Block:
            problems.append(f'block_fn={type(block).__name__}')
        if pooled_norm and (model.global_pool != 'avg'
                            or model.pool_include_prefix):
            problems.append(f'global_pool={model.global_pool!r}')
        if model.pos_embed is None:
            problems.append("pos_embed='none'")
        img_size = tuple(model.patch_embed.img_size)
        patch_size = tuple(model.patch_embed.patch_size)
        problems += _unusual_parts(model, img_size, patch_size)
        refuse("timm's VisionTransformer cannot be exported with", problems)
        return cls(
            img_size=img_size,
            patch_size=patch_size,
            in_channels=model.in_chans,
            embed_dims=model.embed_dim,
            num_layers=len(model.blocks),
            num_heads=block.attn.num_heads,
            feedforward_channels=block.mlp.fc1.out_features,
            qkv_bias=block.attn.qkv.bias is not None,
            layer_scale=not isinstance(block.ls1, nn.Identity),
            pre_norm=isinstance(model.norm_pre, nn.LayerNorm),
            cls_token=model.has_class_token,
            deit3=model.has_class_token and model.no_embed_class,
            final_norm=isinstance(model.norm, nn.LayerNorm),
            pooled_norm=pooled_norm,
            norm_eps=block.norm1.eps)


@dataclass(frozen=True)
class NamedArchitecture:
    """A model of timm that nothing but its name there describes."""

    model_name: str
    kwargs: Dict[str, Any]  # further arguments of timm.create_model
    img_size: Tuple[int, int]  # height and width in pixels, as of patches
    patch_size: Tuple[int, int]
    in_channels: int
    embed_dims: int
    num_heads: int
    averages: bool  # as of a ViTArchitecture
    reason: str  # why it is none

    @classmethod
    def of(cls, model: nn.Module, model_name: str, kwargs: Dict[str, Any],
           averages: bool, reason: str) -> 'NamedArchitecture':
        """Find out how timm makes a model with the names of another.

        A model that pools by attention has lost these weights, which no
        pre-training of its patches trains: it gets another pooling.

        Args:
            model (nn.Module): A model of timm without classifier.
            model_name (str): Its name in timm.
            kwargs (dict): With which it was made, but for ``num_classes``.
            averages (bool): Whether a classifier gets the average of all
                patches.
            reason (str): Why it is no :class:`ViTArchitecture`.

        Raises:
            ValueError: If timm makes none.
        """
        own = model.state_dict().keys()
        others = [] if averages else [{}, dict(global_pool='token')]
        for pooling in (*others, dict(global_pool='avg', fc_norm=False),
                        dict(global_pool='avg', use_fc_norm=False)):
            try:
                with torch.device('meta'), torch.random.fork_rng(devices=[]):
                    made = timm.create_model(model_name, num_classes=0,
                                             **{**kwargs, **pooling})
            except (TypeError, AssertionError, RuntimeError):
                continue  # it has no such pooling
            if made.state_dict().keys() == own:
                break
        else:
            raise ValueError(f"timm's {model_name} with {kwargs} makes no "
                             'model of these weights.')
        embed = model.patch_embed
        return cls(
            model_name=model_name,
            kwargs={**kwargs, **pooling},
            img_size=tuple(embed.img_size),
            patch_size=tuple(embed.patch_size),
            in_channels=embed.proj.in_channels,
            embed_dims=model.embed_dim,
            num_heads=model.blocks[0].attn.num_heads,
            averages=averages,
            reason=reason)


def _unusual_parts(model: nn.Module, img_size: Tuple[int, int],
                   patch_size: Tuple[int, int]) -> List[str]:
    """What would make a difference without changing names and shapes."""
    norms, activations = set(), set()
    for name, module in model.named_modules():
        kind = name.rsplit('.', 1)[-1]
        if isinstance(module, nn.LayerNorm):
            norms.add(f'LayerNorm(eps={module.eps})')
        elif ('norm' in kind or kind in ('ln1', 'ln2')) and not isinstance(
                module, nn.Identity):
            norms.add(type(module).__name__)
        elif 'activation' in type(module).__module__ or isinstance(
                module, nn.GELU):
            activations.add(repr(module))
    problems = []
    if len(norms) != 1 or 'LayerNorm' not in min(norms):
        problems.append(f'norms {", ".join(sorted(norms))} (possible is one '
                        'and the same LayerNorm everywhere)')
    if activations != {repr(nn.GELU())}:
        problems.append(f'activation {", ".join(sorted(activations))} '
                        '(possible is GELU)')
    if any(pixels % patch for pixels, patch in zip(img_size, patch_size)):
        problems.append(f'img_size={img_size}, which is no multiple of '
                        f'patch_size={patch_size}')
    return problems


def refuse(whose: str, problems: List[str], cure: str = '') -> None:
    """Raise ValueError if there are problems."""
    if problems:
        raise ValueError(f'{whose} {"; ".join(problems)}. {cure}'.rstrip())
