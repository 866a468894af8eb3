"""The plain vision transformers of mmpretrain as truncated teachers."""
import re
from typing import Tuple, Type, Union

import torch.nn as nn
from mmpretrain.models import BEiTViT, DeiT3, HiViT, ViTEVA02
from mmpretrain.models.selfsup import MAEHiViT, MAEViT

from dmae_mm.models.mmpretrain_vits import TOKEN_BACKBONES, projection
from dmae_mm.models.visible_patches import (VisiblePatches,
                                            VisiblePatchesOfBEiT,
                                            VisiblePatchesOfEVA02,
                                            VisiblePatchesOfHiViT)

# Exactly these: a subclass with a forward of its own would run, but not as
# the code below assumes.
SUPPORTED = (MAEViT, *TOKEN_BACKBONES, MAEHiViT)

# In checkpoints, but computed from the grid of patches and never learnt.
COMPUTED = re.compile(r'(.*\.)?(relative_position_index|rope\.freqs_\w+)')


def show_only_visible(network: nn.Module) -> VisiblePatches:
    """Put a :class:`VisiblePatches` in front of the blocks."""
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
    if str(arch).lower() not in backbone_cls.arch_zoo:
        raise ValueError(f'teacher.backbone: arch={arch!r} does not exist. '
                         'Choose one of '
                         f'{", ".join(backbone_cls.arch_zoo)}, or give a '
                         'dict.')
    return dict(backbone_cls.arch_zoo[arch.lower()])


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
