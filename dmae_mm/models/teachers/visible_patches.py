"""Modules that make a whole network's own forward pass see visible patches.

Each takes the place of a module that drops tokens (or nothing) behind the
position embedding and in front of the first block.
"""
from typing import Any, Optional, Tuple

import torch
import torch.nn as nn
import torch.nn.functional as F


class VisiblePatches(nn.Module):
    """Lets a network embed only the patches that ``ids_keep`` names.

    The visible patches are cut out of the images and put side by side into
    images of one row, of which the network's own patch embedding makes
    tokens. To these it adds what stands in the place of ``pos_embed``, from
    the patch embedding until this module is called: the positions of the
    visible patches. So nothing is computed for hidden patches.

    With ``ids_keep=None`` all is as without this module.

    Args:
        network (nn.Module): The network, which gets hooks at its
            ``patch_embed``.
        patch_grid (tuple[int, int]): Its rows and columns of patches.
        patch_size (tuple[int, int]): Height and width of a patch in pixels.
    """

    def __init__(self, network: nn.Module, patch_grid: Tuple[int, int],
                 patch_size: Tuple[int, int]) -> None:
        super().__init__()
        object.__setattr__(self, 'network', network)  # no child: it is above
        self.patch_grid = tuple(patch_grid)
        self.patch_size = tuple(patch_size)
        self.ids_keep: Optional[torch.Tensor] = None
        network.patch_embed.register_forward_pre_hook(self._pick)
        network.patch_embed.register_forward_hook(self._keep_resolution)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        self._show_positions(None)
        return tokens

    def _pick(self, embed: nn.Module, args: tuple) -> Optional[tuple]:
        self._show_positions(self.ids_keep)
        if self.ids_keep is None:
            return None
        images, = args
        (rows, columns), (height, width) = self.patch_grid, self.patch_size
        margins = (0, columns * width - images.shape[3],
                   0, rows * height - images.shape[2])
        if any(margins):
            images = F.pad(images, margins)
        patches = images.unflatten(3, (columns, width)).unflatten(
            2, (rows, height)).permute(0, 2, 4, 1, 3, 5)
        batch = torch.arange(len(images), device=images.device).unsqueeze(1)
        visible = patches[batch, self.ids_keep // columns,
                          self.ids_keep % columns]  # (B, K, C, h, w)
        return visible.permute(0, 2, 3, 1, 4).flatten(3),  # (B, C, h, K w)

    def _show_positions(self, ids: Optional[torch.Tensor]) -> None:
        """Put those of the patches ``ids`` in the place of ``pos_embed``.

        They are an attribute, which Python finds first, in front of the
        parameter, which stays where checkpoints have it. With None they are
        the parameter itself.
        """
        positions = self.network._parameters.get('pos_embed')
        if positions is None:
            return
        if ids is not None:
            num_prefix = (
                positions.shape[1] - self.patch_grid[0] * self.patch_grid[1])
            prefix = positions[:, :num_prefix].expand(len(ids), -1, -1)
            positions = positions[0, num_prefix:][ids]
            if num_prefix > 0:
                positions = torch.cat([prefix, positions], dim=1)
        object.__setattr__(self.network, 'pos_embed', positions)

    def _keep_resolution(self, embed: nn.Module, args: tuple,
                         output: Any) -> Any:
        """mmpretrain's embeddings return their tokens' rows and columns."""
        if self.ids_keep is None or not isinstance(output, tuple):
            return output
        return output[0], self.patch_grid


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
        network (nn.Module): A ``ViTEVA02``, changed in place.
        patch_grid (tuple[int, int]): As in :class:`VisiblePatches`.
        patch_size (tuple[int, int]): As in :class:`VisiblePatches`.
    """

    def __init__(self, network: nn.Module, patch_grid: Tuple[int, int],
                 patch_size: Tuple[int, int]) -> None:
        super().__init__(network, patch_grid, patch_size)
        self.rope = rope = network.rope
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
        network (nn.Module): A ``BEiTViT``, changed in place.
        patch_grid (tuple[int, int]): As in :class:`VisiblePatches`.
        patch_size (tuple[int, int]): As in :class:`VisiblePatches`.
    """

    def __init__(self, network: nn.Module, patch_grid: Tuple[int, int],
                 patch_size: Tuple[int, int]) -> None:
        super().__init__(network, patch_grid, patch_size)
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
