"""The plain vision transformers of mmpretrain as truncated teachers."""
from typing import Any, Optional, Tuple, Type, Union

import torch
import torch.nn as nn
import torch.nn.functional as F
from mmpretrain.models import (BEiTViT, DeiT3, DistilledVisionTransformer,
                               HiViT, VisionTransformer, ViTEVA02)
from mmpretrain.models.selfsup import MAEHiViT, MAEViT

from dmae_mm.models.mmpretrain_vits import (TOKEN_BACKBONES, check_arch,
                                            projection)
from dmae_mm.models.tokens import VisiblePatches, take

# Exactly these: a subclass with a forward of its own would run, but not as
# the code below assumes.
SUPPORTED = (MAEViT, *TOKEN_BACKBONES, MAEHiViT)
# Of these, whose forward pass resamples positions to the size of the images.
RESAMPLING = (MAEViT, VisionTransformer, DistilledVisionTransformer, DeiT3)


def show_only_visible(network: nn.Module) -> VisiblePatches:
    """Put a :class:`VisiblePatches` in front of the blocks.

    It takes the place of a dropout, which the network's own forward pass
    calls once, between the positions and the first block. In eval mode that
    dropout does nothing.
    """
    if isinstance(network, HiViT):
        network.pos_drop = visible = VisiblePatchesOfHiViT(network)
        return visible
    if isinstance(network, BEiTViT):
        visible = VisiblePatchesOfBEiT(network)
    elif isinstance(network, ViTEVA02):
        visible = VisiblePatchesOfEVA02(network)
    elif isinstance(network, DeiT3):  # puts CLS in front later
        visible = VisiblePatches(num_prefix_tokens=0)
    else:
        visible = VisiblePatches(network.num_extra_tokens)
    network.drop_after_pos = visible
    return visible


def check_patches(network: nn.Module) -> None:
    """Refuse patches that overlap and positions that need all patches."""
    conv = projection(network)
    if conv.kernel_size != conv.stride or any(conv.padding):
        raise ValueError(
            f'teacher.backbone: its patches overlap (kernel '
            f'{conv.kernel_size}, stride {conv.stride}, padding '
            f'{conv.padding}), so visible patches would show hidden '
            'ones. Choose a teacher with separate patches.')
    if getattr(network, 'rpe', False):
        raise ValueError(
            'teacher.backbone: rpe=True: the relative positions of a HiViT '
            'need all patches. Choose a teacher with rpe=False.')
    if isinstance(network, BEiTViT) and network.cls_token is None:
        raise ValueError('teacher.backbone: with_cls_token=False: relative '
                         'positions of BEiTViT need CLS. Leave it out.')


def check_regrid(backbone_cls: Type, own: Tuple[int, int],
                  grid: Tuple[int, int]) -> None:
    """Refuse a grid of patches to which mmpretrain cannot resample."""
    reason = None
    if issubclass(backbone_cls, HiViT):
        reason = 'its position embeddings cannot be resampled'
    elif own[0] != own[1]:
        reason = 'only square grids can be resampled'
    elif issubclass(backbone_cls, MAEViT) and grid[0] != grid[1]:
        reason = 'it has positions for squares only'
    if reason:
        raise ValueError(
            f'teacher.backbone: {backbone_cls.__name__} has a grid of '
            f'{own[0]} x {own[1]} patches, the student of {grid[0]} x '
            f'{grid[1]}, and {reason}. Give both the same number of patches '
            'with img_size and patch_size.')


def arch_settings(backbone_cls: Type, arch: Union[str, dict]) -> dict:
    """The dict behind the name of an architecture."""
    if isinstance(arch, dict):
        return dict(arch)
    check_arch('teacher.backbone', dict(type=backbone_cls, arch=str(arch)))
    return dict(backbone_cls.arch_zoo[str(arch).lower()])


def backbone_cfg(backbone: dict, backbone_cls: Type, arch: dict,
                  depth: int) -> dict:
    """Config of the backbone with its first ``depth`` blocks."""
    cfg = {name: value for name, value in backbone.items()
           if name != 'init_cfg'}
    if issubclass(backbone_cls, HiViT):
        depths = [*arch['depths'][:-1], depth]
        return dict(cfg, arch=dict(arch, depths=depths), out_indices=[-1])
    if isinstance(cfg.get('layer_cfgs'), (list, tuple)):
        cfg['layer_cfgs'] = list(cfg['layer_cfgs'])[:depth]
    return dict(
        cfg,
        arch=dict(arch, num_layers=depth),
        out_indices=[],
        out_type='raw',
        final_norm=False)


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
