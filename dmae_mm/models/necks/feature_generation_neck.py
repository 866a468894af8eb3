from typing import Tuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from mmengine.model import BaseModule
from mmpretrain.models.backbones.vision_transformer import (
    TransformerEncoderLayer)
from mmpretrain.models.utils import build_2d_sincos_position_embedding
from mmpretrain.registry import MODELS

from dmae_mm.models.tokens import take
from dmae_mm.options import reject_unknown_options


@MODELS.register_module()
@reject_unknown_options
class FeatureGenerationNeck(BaseModule):
    """Predict the teacher's features of patches that the student did not see.

    The generative term of `Asymmetric Masked Distillation for Pre-Training
    Small Foundation Models <https://arxiv.org/abs/2311.03149>`_ (AMD): where
    the teacher sees more patches than the student, a small transformer
    predicts, from the student's projected tokens and one learned token for
    each of the others, the teacher's tokens of these. As in MAE's decoder,
    each token is given its patch's fixed sine-cosine position, and CLS none.
    The outputs are those of the last block, without a norm, as the teacher's
    are. One neck serves one aligned pair.

    Args:
        embed_dims (int): Width of the teacher, C, a multiple of 4.
        grid (tuple[int, int]): Rows and columns of the patches.
        num_heads (int): Attention heads, a divisor of C. Defaults to 8.
        depth (int): Number of blocks. Defaults to 2.

    Raises:
        ValueError: If ``embed_dims`` cannot be divided so.
    """

    def __init__(self,
                 embed_dims: int,
                 grid: Tuple[int, int],
                 num_heads: int = 8,
                 depth: int = 2) -> None:
        super().__init__()
        if embed_dims % 4 or num_heads < 1 or embed_dims % num_heads:
            raise ValueError(
                f'FeatureGenerationNeck: the teacher is {embed_dims} wide, '
                f'which must be a multiple of 4 and of num_heads={num_heads}. '
                'Choose another num_heads, or another teacher.')
        self.mask_token = nn.Parameter(torch.zeros(embed_dims))
        self.register_buffer(
            'positions',
            build_2d_sincos_position_embedding(grid, embed_dims),  # (1, L, C)
            persistent=False)
        self.blocks = nn.ModuleList([
            TransformerEncoderLayer(
                embed_dims,
                num_heads,
                4 * embed_dims,
                norm_cfg=dict(type='LN', eps=1e-6)) for _ in range(depth)
        ])

    def init_weights(self) -> None:
        """As MAE does: the mask token from a normal distribution."""
        super().init_weights()
        nn.init.normal_(self.mask_token, std=.02)

    def forward(self, projected: torch.Tensor, ids_keep: torch.Tensor,
                ids_extra: torch.Tensor) -> torch.Tensor:
        """Predict the tokens of some patches from those of others.

        Args:
            projected (torch.Tensor): The student's tokens in the teacher's
                width, (B, P + K, C), P of them in front of those of patches.
            ids_keep (torch.Tensor): Indices of the patches that the student
                saw, (B, K), int64.
            ids_extra (torch.Tensor): Of those that only the teacher saw,
                (B, D), int64.

        Returns:
            torch.Tensor: The predicted tokens of these, (B, D, C).
        """
        num_seen, num_extra = projected.shape[1], ids_extra.shape[1]
        positions = self.positions.expand(len(projected), -1, -1)
        seen = projected + F.pad(
            take(positions, ids_keep),
            (0, 0, num_seen - ids_keep.shape[1], 0))
        x = torch.cat([seen, self.mask_token + take(positions, ids_extra)],
                      dim=1)  # (B, P + K + D, C)
        for block in self.blocks:
            x = block(x)
        return x[:, -num_extra:]
