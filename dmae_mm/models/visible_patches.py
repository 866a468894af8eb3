"""Which patches are visible, and networks that run on these alone.

The modules here take the place of one that a network has, behind its position
embedding and in front of its first block, to drop tokens there (or to do
nothing). So a whole network of the host packages, with its own forward pass,
runs its blocks on the visible patches only.
"""
from typing import Any, Optional, Tuple

import torch
import torch.nn as nn
import torch.nn.functional as F


def visible_ids(ids_restore: torch.Tensor, num_visible: int) -> torch.Tensor:
    """The patches that a masked autoencoder left visible.

    Args:
        ids_restore (torch.Tensor): MAE's permutation, (B, L): where each
            patch is in the order in which the visible ones come first.
        num_visible (int): K, how many are visible.

    Returns:
        torch.Tensor: Their indices in that order, (B, K), int64.
    """
    return ids_restore.argsort(dim=1)[:, :num_visible]


class VisiblePatches(nn.Module):
    """Passes on the prefix tokens and those of the visible patches.

    ::

        vit.drop_after_pos = visible = VisiblePatches(num_prefix_tokens=1)
        output = visible.run(vit, images, ids_keep=ids_keep)

    Args:
        num_prefix_tokens (int): P, tokens in front of those of the patches.
    """

    def __init__(self, num_prefix_tokens: int) -> None:
        super().__init__()
        self.num_prefix_tokens = num_prefix_tokens
        self._ids_keep: Optional[torch.Tensor] = None  # during a call of run

    def run(self, network: nn.Module, *args: Any,
            ids_keep: Optional[torch.Tensor]) -> Any:
        """Call the network, or a function that runs it, on some patches.

        Args:
            network (Callable): What is called.
            *args: Its arguments.
            ids_keep (torch.Tensor, optional): Indices of each image's visible
                patches, (B, K), int64. None: all.

        Returns:
            What the network returns.
        """
        self._ids_keep = ids_keep
        try:
            return network(*args)
        finally:
            self._ids_keep = None

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Drop the tokens of hidden patches.

        Args:
            tokens (torch.Tensor): (B, P + L, C).

        Returns:
            torch.Tensor: (B, P + K, C), the patches in the order of
            ``ids_keep``.
        """
        if self._ids_keep is None:
            return tokens
        prefix, patches = tokens.split(
            [self.num_prefix_tokens, tokens.shape[1] - self.num_prefix_tokens],
            dim=1)
        patches = take(patches, self._ids_keep)
        return torch.cat([prefix, patches], dim=1) if (
            self.num_prefix_tokens) else patches


def take(patches: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Some patches of each image.

    Args:
        patches (torch.Tensor): (B, L, ...).
        ids (torch.Tensor): Indices, (B, K), int64.

    Returns:
        torch.Tensor: (B, K, ...).
    """
    batch = torch.arange(len(ids), device=ids.device).unsqueeze(1)
    return patches[batch, ids]


class VisiblePatchesWithIndices(VisiblePatches):
    """For timm's ``Eva``, which then picks the rotary embeddings to match."""

    def forward(
            self, tokens: torch.Tensor
    ) -> Tuple[torch.Tensor, Optional[torch.Tensor]]:
        return super().forward(tokens), self._ids_keep


class VisiblePatchesOfHiViT(VisiblePatches):
    """For mmpretrain's ``HiViT``: its stem, too, sees visible patches only.

    The stem runs for each patch by itself and costs more than the main blocks
    of a quarter of the patches. So the others are dropped as soon as they
    have been embedded, and the positions of the visible ones are added here
    instead of by the network.

    Args:
        network (nn.Module): A ``HiViT``, changed in place.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__(num_prefix_tokens=0)
        object.__setattr__(self, 'network', network)  # no child: it is above
        network.ape = False
        network.patch_embed.register_forward_hook(self._drop_embedded)

    def _drop_embedded(self, embed: nn.Module, args: tuple,
                       output: torch.Tensor) -> torch.Tensor:
        # (B, L, 4, 4, C_stem): what is inside a patch is in a grid of its own.
        return output if self._ids_keep is None else take(
            output, self._ids_keep)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        positions = self.network.pos_embed  # (1, L, C)
        if self._ids_keep is not None:
            positions = positions[0, self._ids_keep]
        return tokens + positions


class VisiblePatchesOfEVA02(VisiblePatches):
    """For mmpretrain's ``ViTEVA02``: also rotates by the patches' positions.

    All blocks share one rotary module, which reads its tables, (L, C_head),
    from two buffers. Before the blocks run, these are set to the rows of the
    visible patches, (B, 1, K, C_head).

    Args:
        network (nn.Module): A ``ViTEVA02``, changed in place.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network.num_extra_tokens)
        self.rope = rope = network.rope
        for name in ('freqs_cos', 'freqs_sin'):
            table = getattr(rope, name)
            self.register_buffer(f'grid_{name}', table, persistent=False)
            rope.register_buffer(name, table, persistent=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        for name in ('freqs_cos', 'freqs_sin'):
            table = getattr(self, f'grid_{name}')
            if self._ids_keep is not None:
                table = table[self._ids_keep].unsqueeze(1)
            setattr(self.rope, name, table)
        return super().forward(tokens)


class VisiblePatchesOfBEiT(VisiblePatches):
    """For mmpretrain's ``BEiTViT``: also picks relative position biases.

    A bias belongs to a pair of tokens. BEiT adds one (heads, 1 + L, 1 + L)
    table to the attention of all images; here each image gets that of its
    visible tokens, (B, heads, 1 + K, 1 + K), through the argument that the
    stock attention has for a bias from outside.

    Args:
        network (nn.Module): A ``BEiTViT``, changed in place.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network.num_extra_tokens)
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
        if self.relative_index is not None and self._ids_keep is None:
            self.pair_index = self.relative_index.unsqueeze(0)
        elif self.relative_index is not None:
            ids = F.pad(self._ids_keep + 1, (1, 0))  # CLS is 0
            self.pair_index = self.relative_index[ids.unsqueeze(2),
                                                  ids.unsqueeze(1)]
        return super().forward(tokens)

    def _bias(self, table: torch.Tensor) -> torch.Tensor:
        return table[self.pair_index].permute(0, 3, 1, 2)

    def _give_bias(self, attention: nn.Module, args: tuple,
                   kwargs: dict) -> Tuple[tuple, Any]:
        table = attention._parameters['relative_position_bias_table']
        return args, dict(kwargs, rel_pos_bias=self._bias(table))
