"""For the backbone ``MAE`` of mmseg."""
import dataclasses
from typing import Any, Dict

import torch

from dmae_mm.host import build, quietly
from dmae_mm.messages import one_line

from ..names import backbone_to_mmseg
from ..tensor_file import Tensors, read_tensor_file
from .export_format import ExportFormat, as_code, check_loaded
from .mmpretrain_format import mmpretrain_cfg
from .trained_model import TrainedModel, mmpretrain_outputs
from .vit_architecture import ViTArchitecture, refuse


class MMSegFormat(ExportFormat):
    """A plain backbone for mmseg's ``MAE``: names without prefix.

    mmseg ignores a prefix, loads non-strictly and starts layer scale at 0.1,
    all without a word. So the file holds exactly mmseg's names, including
    layer scale: ones where the model has none. Left out is only the relative
    position bias, which is zero in mmseg from the start.
    """
    endings = ('.pth', )
    scope = 'mmseg'

    def __init__(self, model: TrainedModel) -> None:
        super().__init__(model)
        self.arch = model.arch
        self.cfg = _mae_cfg(model.arch)
        self.tensors = backbone_to_mmseg(model.tensors)
        if not model.arch.layer_scale:
            self.tensors.update({
                f'layers.{block}.gamma_{i}': torch.ones(model.arch.embed_dims)
                for block in range(model.arch.num_layers) for i in (1, 2)
            })
        if model.arch.pooled_norm:  # it has no place in mmseg
            for name in ('ln2.weight', 'ln2.bias'):
                del self.tensors[name]
                self.left_out.append(f'backbone.{name}')
        if self.origin.mean is not None and not self._normalises():
            self.notes.append(
                "mmseg's SegDataPreProcessor normalises 1 or 3 channels only: "
                'normalise in the pipeline, by '
                f'mean={list(self.origin.mean)} and '
                f'std={list(self.origin.std)}')
        try:
            with quietly():
                from mmseg import __version__
                from mmseg.models.backbones import MAE
            self.mae = MAE
            self.loaded_by = f'mmseg {__version__}'
        # An mmseg that does not fit mmcv fails an assertion.
        except (ImportError, AssertionError) as error:
            self.mae = None
            self.loaded_by = "mmpretrain's VisionTransformer"
            self.notes.append(
                'mmseg itself was not tried, because it cannot be imported '
                f'({one_line(error)}): pip install "dmae_mm[mmseg]"')

    def usage(self, path: str) -> str:
        return f'backbone={as_code(self._with_checkpoint(path))}'

    def outputs(self, path: str, images: torch.Tensor) -> Tensors:
        if self.mae is None:
            return self._outputs_without_mmseg(path, images)
        cfg = self._with_checkpoint(path)
        del cfg['type']
        with quietly():
            model = self.mae(**cfg)
            model.init_weights()
        check_loaded(model, path)
        model.eval()
        features = model(images)[-1]  # (B, C, H, W)
        return dict(patches=features.flatten(2).transpose(1, 2))

    def _data_preprocessor(self) -> Dict[str, Any]:
        if self.origin.mean is None or not self._normalises():
            return {}
        return dict(
            type='SegDataPreProcessor',
            mean=list(self.origin.mean),
            std=list(self.origin.std),
            bgr_to_rgb=bool(self.origin.to_rgb),
            size=self.arch.img_size,
            pad_val=0,
            seg_pad_val=255)

    def _normalises(self) -> bool:
        """Whether mmseg's data preprocessor takes so many channels."""
        return self.arch.in_channels in (1, 3)

    def check_preprocessing(self, path: str) -> None:
        if self.mae is not None:
            super().check_preprocessing(path)

    def _with_checkpoint(self, path: str) -> dict:
        return dict(
            self.cfg, init_cfg=dict(type='Pretrained', checkpoint=path))

    def _outputs_without_mmseg(self, path: str,
                               images: torch.Tensor) -> Tensors:
        arch = dataclasses.replace(
            self.arch, layer_scale=True, pooled_norm=False)
        backbone = build(mmpretrain_cfg(arch), self.loaded_by)
        backbone.load_state_dict({
            name.replace('gamma_1', 'attn.gamma1.weight').replace(
                'gamma_2', 'ffn.gamma2.weight'): tensor
            for name, tensor in read_tensor_file(path).tensors.items()
        })
        outputs = mmpretrain_outputs(backbone, images)
        return dict(patches=outputs['patches'])


def _mae_cfg(arch: ViTArchitecture) -> Dict[str, Any]:
    """Config of mmseg's ``MAE``."""
    height, width = arch.patch_size
    mlp_ratio, rest = divmod(arch.feedforward_channels, arch.embed_dims)
    inexpressible = {
        'no CLS token': not arch.cls_token,
        'a CLS token without position (DeiT3)': arch.deit3,
        'pre_norm=True': arch.pre_norm,
        'qkv_bias=False': not arch.qkv_bias,
        f'patch_size={arch.patch_size}': height != width,
        f'feedforward_channels={arch.feedforward_channels}, which is no '
        'multiple of the width': rest,
    }
    refuse("mmseg's MAE cannot express",
           [what for what, is_there in inexpressible.items() if is_there])
    return dict(
        type='MAE',
        img_size=arch.img_size,
        patch_size=height,
        in_channels=arch.in_channels,
        embed_dims=arch.embed_dims,
        num_layers=arch.num_layers,
        num_heads=arch.num_heads,
        mlp_ratio=mlp_ratio,
        norm_cfg=dict(type='LN', eps=arch.norm_eps),
        final_norm=arch.final_norm)
