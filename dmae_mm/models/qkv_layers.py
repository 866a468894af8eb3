"""The layers of a transformer's blocks that make queries, keys and values."""
from typing import Any, List, Optional, Sequence

import torch
import torch.nn as nn


def qkv_layers(blocks: Sequence[nn.Module]) -> Optional[List[nn.Module]]:
    """The layer of each block that makes q, k and v of its tokens at once.

    Args:
        blocks (Sequence[nn.Module]): Blocks of mmpretrain or timm.

    Returns:
        list[nn.Module] | None: Layers whose outputs, (B, N, 3 C), are q, k
        and v, each of all heads. None if a block has no such layer, or
        computes them from its weight instead of calling it, as BEiT does to
        add a bias to q and v alone.
    """
    layers = []
    for block in blocks:
        attention = getattr(block, 'attn', None)
        layer = getattr(attention, 'qkv', None)
        if layer is None or getattr(attention, 'q_bias', None) is not None:
            return None
        layers.append(layer)
    return layers


def norm_before_attention(block: nn.Module) -> str:
    """What the norm is called whose output goes into the attention."""
    return 'ln1' if 'ln1' in block._modules else 'norm1'


class UpToQKV(nn.Module):
    """What a pre-norm block computes up to its queries, keys and values.

    It takes the place of a truncated teacher's last block, so that nothing
    behind its ``qkv`` layer is computed, and keeps the names of its weights.

    Args:
        block (nn.Module): A block that :func:`qkv_layers` knows.
    """

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.norm_name = norm_before_attention(block)
        self.add_module(self.norm_name, getattr(block, self.norm_name))
        self.attn = nn.Module()
        self.attn.qkv = block.attn.qkv
        self.attn.num_heads = block.attn.num_heads

    def forward(self, tokens: torch.Tensor, *args: Any,
                **kwargs: Any) -> torch.Tensor:
        """Make q, k and v.

        Args:
            tokens (torch.Tensor): (B, N, C).
            *args: What else a block gets, such as rotary embeddings.
            **kwargs: Likewise.

        Returns:
            torch.Tensor: (B, N, 3 C).
        """
        return self.attn.qkv(getattr(self, self.norm_name)(tokens))


def shared_num_heads(blocks: Sequence[nn.Module]) -> Optional[int]:
    """Attention heads of blocks; None if they differ."""
    numbers = {block.attn.num_heads for block in blocks}
    return numbers.pop() if len(numbers) == 1 else None


def check_tap(tap: str, legal: Sequence[str]) -> None:
    """Refuse features of a block that a teacher does not give."""
    if tap not in legal:
        raise ValueError(f'teacher: tap={tap!r} does not exist. Choose one of '
                         f'{", ".join(map(repr, legal))}.')
