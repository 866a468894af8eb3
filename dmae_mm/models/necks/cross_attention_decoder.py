from typing import List, Optional, Tuple, Union

import torch
import torch.nn as nn
import torch.nn.functional as F
from mmcv.cnn.bricks.transformer import FFN
from mmengine.model import BaseModule
from mmpretrain.models.necks import MAEPretrainDecoder
from mmpretrain.models.utils import build_norm_layer
from mmpretrain.registry import MODELS

from dmae_mm.models.tokens import first_ids
from dmae_mm.options import is_finite_number, reject_unknown_options


class CrossAttentionBlock(BaseModule):
    """Cross-attention to a fixed memory, then an FFN; both pre-norm.

    Args:
        embed_dims (int): Width, C.
        num_heads (int): Attention heads.
        feedforward_channels (int): Hidden width of the FFN.
        norm_cfg (dict): Of both norms.
    """

    def __init__(self, embed_dims: int, num_heads: int,
                 feedforward_channels: int, norm_cfg: dict) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.ln1 = build_norm_layer(norm_cfg, embed_dims)
        self.q = nn.Linear(embed_dims, embed_dims)
        self.kv = nn.Linear(embed_dims, 2 * embed_dims)
        self.proj = nn.Linear(embed_dims, embed_dims)
        self.ln2 = build_norm_layer(norm_cfg, embed_dims)
        self.ffn = FFN(
            embed_dims, feedforward_channels, act_cfg=dict(type='GELU'))

    def forward(self, x: torch.Tensor, memory: torch.Tensor) -> torch.Tensor:
        """Let each query look at the memory.

        Args:
            x (torch.Tensor): Queries, (B, M, C).
            memory (torch.Tensor): What they look at, (B, N, C).

        Returns:
            torch.Tensor: The queries, (B, M, C).
        """
        q = self.q(self.ln1(x)).unflatten(-1, (self.num_heads, -1))
        k, v = self.kv(memory).unflatten(
            -1, (2, self.num_heads, -1)).unbind(2)  # each (B, N, heads, d)
        found = F.scaled_dot_product_attention(
            q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
        x = x + self.proj(found.transpose(1, 2).flatten(2))
        return self.ffn(self.ln2(x), identity=x)


@MODELS.register_module()
@reject_unknown_options
class CrossAttentionDecoder(MAEPretrainDecoder):
    """Light decoder: some masked patches look at the visible ones.

    `Rethinking Patch Dependence for Masked Autoencoders
    <https://arxiv.org/abs/2401.14391>`_ (CrossMAE): queries of masked patches
    attend to the visible tokens and not to each other, so that a part of them
    can be predicted, and the loss taken, without the rest. All blocks look at
    the student's last output: the paper's weighting of several encoder
    layers is left out.

    In the place of ``MAEPretrainDecoder``; it returns the patches that it
    predicts with their positions, and :class:`DMAE` averages the loss over
    these.

    Args:
        num_patches (int): Patches of an image, L. Defaults to 196.
        patch_size (int): Side of a patch in pixels. Defaults to 16.
        in_chans (int): Channels of an image. Defaults to 3.
        embed_dim (int): Width of the student. Defaults to 1024.
        decoder_embed_dim (int): Width. Defaults to 512.
        decoder_depth (int): Number of blocks. Defaults to 8.
        decoder_num_heads (int): Attention heads. Defaults to 16.
        mlp_ratio (int): Hidden width of the FFNs in widths. Defaults to 4.
        predict_ratio (float): Part of all patches of an image that is
            predicted in a training step, above 0 and not above the student's
            ``mask_ratio``; ``int(L * predict_ratio)`` of the masked patches
            are drawn anew each step. In evaluation mode all masked patches
            are predicted. Defaults to 0.25.
        norm_cfg (dict): Normalisation. Defaults to LayerNorm.
        init_cfg (dict | list[dict], optional): As in mmpretrain.

    Raises:
        ValueError: If ``predict_ratio`` is no number in (0, 1) or leaves no
            patch to predict.
    """

    def __init__(self,
                 num_patches: int = 196,
                 patch_size: int = 16,
                 in_chans: int = 3,
                 embed_dim: int = 1024,
                 decoder_embed_dim: int = 512,
                 decoder_depth: int = 8,
                 decoder_num_heads: int = 16,
                 mlp_ratio: int = 4,
                 predict_ratio: float = 0.25,
                 norm_cfg: dict = dict(type='LN', eps=1e-6),
                 init_cfg: Optional[Union[List[dict], dict]] = None) -> None:
        if not is_finite_number(predict_ratio) or not 0 < predict_ratio < 1:
            raise ValueError(f'neck: predict_ratio={predict_ratio!r} is not a '
                             'number above 0 and below 1.')
        if int(num_patches * predict_ratio) == 0:
            raise ValueError(
                f'neck: predict_ratio={predict_ratio} predicts none of the '
                f'{num_patches} patches. It must be at least '
                f'{1 / num_patches:.4f}.')
        super().__init__(
            num_patches=num_patches,
            patch_size=patch_size,
            in_chans=in_chans,
            embed_dim=embed_dim,
            decoder_embed_dim=decoder_embed_dim,
            decoder_depth=0,
            norm_cfg=norm_cfg,
            init_cfg=init_cfg)
        self.predict_ratio = predict_ratio
        self.num_predicted = int(num_patches * predict_ratio)
        self.memory_norm = build_norm_layer(norm_cfg, decoder_embed_dim)
        self.decoder_blocks = nn.ModuleList([
            CrossAttentionBlock(decoder_embed_dim, decoder_num_heads,
                                int(mlp_ratio * decoder_embed_dim), norm_cfg)
            for _ in range(decoder_depth)
        ])

    def forward(
            self, x: torch.Tensor, ids_restore: torch.Tensor
    ) -> Tuple[torch.Tensor, torch.Tensor]:
        """Predict masked patches.

        Args:
            x (torch.Tensor): Student's output, (B, 1 + K, C_student): CLS and
                the visible patches.
            ids_restore (torch.Tensor): MAE's permutation, (B, L).

        Returns:
            tuple[torch.Tensor]: Predicted values of the patches, (B, M,
            pixels of a patch), and which patches these are, (B, M).
        """
        num_visible = x.shape[1] - 1  # K
        num_predicted = self.num_predicted if self.training else (
            ids_restore.shape[1] - num_visible)  # M
        ids_visible, ids_predict = first_ids(
            ids_restore, num_visible + num_predicted).split(
                [num_visible, num_predicted], dim=1)

        positions = self.decoder_pos_embed[0, 1:]  # (L, C)
        # MAE's position of CLS is zero.
        memory = self.memory_norm(
            self.decoder_embed(x) +
            F.pad(positions[ids_visible], (0, 0, 1, 0)))  # (B, 1 + K, C)
        queries = self.mask_token + positions[ids_predict]  # (B, M, C)
        for block in self.decoder_blocks:
            queries = block(queries, memory)
        return self.decoder_pred(self.decoder_norm(queries)), ids_predict
