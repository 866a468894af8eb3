from typing import Sequence, Tuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from mmpretrain.models.utils import LayerNorm2d

from dmae_mm.options import reject_unknown_options


# In MMEngine's own registry: those of mmdet, mmseg and mmpretrain fall back
# to it.
@MODELS.register_module()
@reject_unknown_options
class SimpleFeaturePyramid(BaseModule):
    """Feature pyramid from the last map of a plain vision transformer.

    From `Exploring Plain Vision Transformer Backbones for Object Detection
    <https://arxiv.org/abs/2203.16527>`_, section 3 and appendix: no lateral
    and no top-down connections. With a map of stride 16, the levels have
    strides 4, 8, 16, 32 and, with five, 64.

    Args:
        in_channels (int): Width of the backbone, a multiple of 4.
        out_channels (int): Channels of each level. Defaults to 256.
        num_outs (int): Number of levels: 4, or 5 for mmdet's RPN. Defaults
            to 5.
        init_cfg (dict, optional): Initialization config dict. Defaults to
            None: PyTorch's own.

    Raises:
        ValueError: If ``in_channels`` or ``num_outs`` cannot be.
    """

    def __init__(self,
                 in_channels: int,
                 out_channels: int = 256,
                 num_outs: int = 5,
                 init_cfg: dict = None) -> None:
        super().__init__(init_cfg)
        if not isinstance(in_channels, int) or in_channels < 4 \
                or in_channels % 4:
            raise ValueError(
                f'SimpleFeaturePyramid: in_channels={in_channels!r} cannot '
                'be halved twice. Give the width of the backbone, one '
                'number, a multiple of 4.')
        if num_outs not in (4, 5):
            raise ValueError(
                f'SimpleFeaturePyramid: num_outs={num_outs!r}. There are 4 '
                'levels, of strides 4, 8, 16, 32, or 5, with stride 64.')
        self.in_channels = in_channels
        self.num_outs = num_outs
        half, quarter = in_channels // 2, in_channels // 4
        self.levels = nn.ModuleList([
            nn.Sequential(  # stride 4
                nn.ConvTranspose2d(in_channels, half, 2, stride=2),
                LayerNorm2d(half, eps=1e-6), nn.GELU(),
                nn.ConvTranspose2d(half, quarter, 2, stride=2),
                *_output_layers(quarter, out_channels)),
            nn.Sequential(  # stride 8
                nn.ConvTranspose2d(in_channels, half, 2, stride=2),
                *_output_layers(half, out_channels)),
            nn.Sequential(*_output_layers(in_channels, out_channels)),
            nn.Sequential(  # stride 32
                nn.MaxPool2d(2), *_output_layers(in_channels, out_channels)),
        ])

    def forward(self,
                inputs: Sequence[torch.Tensor]) -> Tuple[torch.Tensor, ...]:
        """Build the pyramid.

        Args:
            inputs (Sequence[torch.Tensor]): Maps of a backbone; only the
                last one, (B, in_channels, H, W), is used.

        Returns:
            tuple[torch.Tensor]: ``num_outs`` maps (B, out_channels, h, w),
            from (4H, 4W) to (H // 2, W // 2) and half of that.

        Raises:
            ValueError: If there is no map, or it is no map of
                ``in_channels``.
        """
        if not inputs:
            raise ValueError(
                'SimpleFeaturePyramid: the backbone gave no map. Let its '
                'out_indices name the last block.')
        x = inputs[-1]
        if x.dim() != 4 or x.shape[1] != self.in_channels:
            raise ValueError(
                'SimpleFeaturePyramid: the backbone gave a tensor of shape '
                f'{tuple(x.shape)} instead of (B, {self.in_channels}, H, W). '
                "Set the neck's in_channels to the width of the backbone, "
                "and a VisionTransformer's out_type to 'featmap'.")
        outs = [level(x) for level in self.levels]
        if self.num_outs == 5:
            outs.append(F.max_pool2d(outs[-1], 1, stride=2))
        return tuple(outs)


def _output_layers(in_channels: int,
                   out_channels: int) -> Tuple[nn.Module, ...]:
    return (nn.Conv2d(in_channels, out_channels, 1, bias=False),
            LayerNorm2d(out_channels, eps=1e-6),
            nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
            LayerNorm2d(out_channels, eps=1e-6))
