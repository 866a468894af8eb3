"""For configs of mmpretrain."""
from typing import Any, Dict

import safetensors.torch
import torch
from mmpretrain.models import DeiT3, VisionTransformer

from dmae_mm.host import build, quietly

from ..names import under_prefix
from ..tensor_file import Tensors
from .export_format import (SOME_LAYER_SCALE, ExportFormat, as_code,
                            check_loaded, int_if_square, unlike_defaults)
from .trained_model import TrainedModel, mmpretrain_outputs
from .vit_architecture import ViTArchitecture, refuse


class MMPretrainFormat(ExportFormat):
    """A plain backbone for ``init_cfg`` in configs of mmpretrain and of all
    that build mmpretrain's backbones: names with ``backbone.``.

    A ``MAEViT`` becomes a ``VisionTransformer``: with this ``init_cfg``,
    ``MAEViT.init_weights`` would draw CLS token and patch embedding anew.
    """

    def __init__(self, model: TrainedModel) -> None:
        super().__init__(model)
        self.cfg = mmpretrain_cfg(model.arch)
        self.loaded_by = f"mmpretrain's {self.cfg['type']}"
        self.tensors = {
            f'backbone.{name}': tensor
            for name, tensor in model.tensors.items()
        }

    def usage(self, path: str) -> str:
        if path.endswith('.pth'):
            return f'backbone={as_code(self._with_checkpoint(path))}'
        # MMEngine's init_cfg reads no .safetensors.
        return (f'backbone={as_code(self.cfg)}\n'
                'model.backbone.load_state_dict({k[len("backbone."):]: v '
                f'for k, v in safetensors.torch.load_file({path!r}).items()'
                '})')

    def outputs(self, path: str, images: torch.Tensor) -> Tensors:
        if path.endswith('.pth'):
            backbone = build(self._with_checkpoint(path), self.loaded_by)
            with quietly():
                backbone.init_weights()
        else:
            backbone = build(self.cfg, self.loaded_by)
            tensors = safetensors.torch.load_file(path)
            backbone.load_state_dict(under_prefix(tensors, 'backbone.'))
        check_loaded(backbone, path, 'backbone.')
        return mmpretrain_outputs(backbone, images)

    def _data_preprocessor(self) -> Dict[str, Any]:
        if self.origin.mean is None:
            return {}
        return dict(
            type='ClsDataPreprocessor',
            mean=list(self.origin.mean),
            std=list(self.origin.std),
            to_rgb=bool(self.origin.to_rgb))

    def _with_checkpoint(self, path: str) -> dict:
        return dict(
            self.cfg,
            init_cfg=dict(
                type='Pretrained', checkpoint=path, prefix='backbone.'))


def mmpretrain_cfg(arch: ViTArchitecture) -> Dict[str, Any]:
    """Config of a ``VisionTransformer``, or of a ``DeiT3`` where CLS has no
    position; what equals the defaults is left out.

    Raises:
        ValueError: If mmpretrain cannot express it.
    """
    cfg = dict(
        img_size=int_if_square(arch.img_size),
        patch_size=int_if_square(arch.patch_size),
        in_channels=arch.in_channels,
        qkv_bias=arch.qkv_bias,
        norm_cfg=dict(type='LN', eps=arch.norm_eps),
        final_norm=arch.final_norm)
    if arch.deit3:
        refuse("mmpretrain's DeiT3 cannot express",
               ['pre_norm'] * arch.pre_norm +
               ['a norm behind average pooling'] * arch.pooled_norm)
        cls = DeiT3
        cfg.update(use_layer_scale=arch.layer_scale)
    else:
        cls = VisionTransformer
        cfg.update(
            out_type='avg_featmap' if arch.pooled_norm else
            'cls_token' if arch.cls_token else 'raw',
            with_cls_token=arch.cls_token,
            layer_scale_init_value=SOME_LAYER_SCALE * arch.layer_scale,
            pre_norm=arch.pre_norm)
    shape = dict(
        embed_dims=arch.embed_dims,
        num_layers=arch.num_layers,
        num_heads=arch.num_heads,
        feedforward_channels=arch.feedforward_channels)
    return dict(type=cls.__name__, arch=shape, **unlike_defaults(cfg, cls))
