"""Modules that make a whole network's own forward pass see visible patches.

Each takes the place of a module that drops tokens (or nothing) behind the
position embedding and in front of the first block.
"""
from typing import Any, Optional, Tuple

import torch
import torch.nn as nn


class VisiblePatches(nn.Module):
    """Keeps the prefix tokens and the patch tokens that ``ids_keep`` names.

    With ``ids_keep=None`` all tokens stay as they are.

    Args:
        num_prefix_tokens (int): Tokens in front of the patches, at this
            place of the network.
    """

    def __init__(self, num_prefix_tokens: int) -> None:
        super().__init__()
        self.num_prefix_tokens = num_prefix_tokens
        self.ids_keep: Optional[torch.Tensor] = None

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        if self.ids_keep is None:
            return tokens
        patches = tokens[:, self.num_prefix_tokens:]
        index = self.ids_keep.unsqueeze(-1).expand(-1, -1, patches.shape[-1])
        patches = patches.gather(1, index)
        if self.num_prefix_tokens == 0:
            return patches
        return torch.cat([tokens[:, :self.num_prefix_tokens], patches], dim=1)


class VisiblePatchesWithIndices(VisiblePatches):
    """For timm's ``Eva``, which then picks the rotary embeddings to match."""

    def forward(
            self, tokens: torch.Tensor
    ) -> Tuple[torch.Tensor, Optional[torch.Tensor]]:
        return super().forward(tokens), self.ids_keep


class VisiblePatchesOfEVA02(VisiblePatches):
    """For mmpretrain's ``ViTEVA02``: also rotates by the patches' positions.

    All blocks share one rotary module, which reads its tables, (L, C_head),
    from two buffers. Before the blocks run, these are set to the rows of the
    visible patches, (B, 1, K, C_head).

    Args:
        num_prefix_tokens (int): As in :class:`VisiblePatches`.
        rope (nn.Module): The network's rotary module.
    """

    def __init__(self, num_prefix_tokens: int, rope: nn.Module) -> None:
        super().__init__(num_prefix_tokens)
        self.rope = rope
        for name in ('freqs_cos', 'freqs_sin'):
            table = getattr(rope, name)
            self.register_buffer(f'grid_{name}', table, persistent=False)
            rope.register_buffer(name, table, persistent=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        for name in ('freqs_cos', 'freqs_sin'):
            table = getattr(self, f'grid_{name}')
            if self.ids_keep is not None:
                table = table[self.ids_keep].unsqueeze(1)
            setattr(self.rope, name, table)
        return super().forward(tokens)


class VisiblePatchesOfBEiT(VisiblePatches):
    """For mmpretrain's ``BEiTViT``: also picks relative position biases.

    A bias belongs to a pair of tokens. BEiT adds one (heads, 1 + L, 1 + L)
    table to the attention of all images; here each image gets that of its
    visible tokens, (B, heads, 1 + K, 1 + K), through the argument that the
    stock attention has for a bias from outside.

    Args:
        num_prefix_tokens (int): As in :class:`VisiblePatches`.
        network (nn.Module): A ``BEiTViT``, changed in place.
    """

    def __init__(self, num_prefix_tokens: int, network: nn.Module) -> None:
        super().__init__(num_prefix_tokens)
        # (B, 1 + K, 1 + K), or of all patches (1, 1 + L, 1 + L).
        self.pair_index: Optional[torch.Tensor] = None
        sources = [layer.attn for layer in network.layers]
        if network.rel_pos_bias is not None:
            sources = [network.rel_pos_bias]
        index = getattr(sources[0], 'relative_position_index', None)
        self.register_buffer('relative_index', index, persistent=False)
        if network.rel_pos_bias is not None:
            network.rel_pos_bias.register_forward_hook(
                lambda module, args, output: self._bias(
                    module.relative_position_bias_table))
        elif index is not None:
            for attention in sources:
                # The stock code must not add its own bias as well. Hiding the
                # table behind an attribute leaves it among the parameters,
                # where checkpoints have it.
                object.__setattr__(attention, 'relative_position_bias_table',
                                   None)
                attention.register_forward_pre_hook(
                    self._give_bias, with_kwargs=True)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        if self.relative_index is not None and self.ids_keep is None:
            self.pair_index = self.relative_index.unsqueeze(0)
        elif self.relative_index is not None:
            ids = nn.functional.pad(self.ids_keep + 1, (1, 0))  # CLS is 0
            self.pair_index = self.relative_index[ids.unsqueeze(2),
                                                  ids.unsqueeze(1)]
        return super().forward(tokens)

    def _bias(self, table: torch.Tensor) -> torch.Tensor:
        return table[self.pair_index].permute(0, 3, 1, 2)

    def _give_bias(self, attention: nn.Module, args: tuple,
                   kwargs: dict) -> Tuple[tuple, Any]:
        table = attention._parameters['relative_position_bias_table']
        return args, dict(kwargs, rel_pos_bias=self._bias(table))
