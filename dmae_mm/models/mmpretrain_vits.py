"""Where a vision transformer keeps its blocks and sizes: of mmpretrain, or a
MaskedTimmViT, which has the same attributes as a MAEViT."""
from typing import Sequence, Tuple

import torch.nn as nn
from mmpretrain.models import (BEiTViT, DeiT3, DistilledVisionTransformer,
                               HiViT, VisionTransformer, ViTEVA02)
from mmpretrain.registry import MODELS

from dmae_mm.options import close_first

# Exactly these: a subclass with a forward of its own would run, but its
# blocks need not return tokens, (B, P + L, C), in the order of the patches.
TOKEN_BACKBONES = (VisionTransformer, DistilledVisionTransformer, DeiT3,
                   BEiTViT, ViTEVA02, HiViT)


def check_arch(owner: str, backbone: dict) -> None:
    """Refuse the name of an architecture that a backbone does not have.

    Args:
        owner (str): Whose backbone it is, for the error.
        backbone (dict): Its config.
    """
    cls, arch = backbone.get('type'), backbone.get('arch')
    if isinstance(cls, str):
        cls = MODELS.get(cls)
    zoo = getattr(cls, 'arch_zoo', None)
    if zoo and isinstance(arch, str) and arch.lower() not in zoo:
        raise ValueError(
            f'{owner}: arch={arch!r} does not exist. Choose one of '
            f'{", ".join(close_first(arch, list(zoo)))}, or give a dict.')


def blocks(network: nn.Module) -> Sequence[nn.Module]:
    """The blocks whose outputs can be aligned; of a HiViT: the main stage."""
    if isinstance(network, HiViT):
        return network.blocks[-network.num_main_blocks:]
    return network.layers


def projection(network: nn.Module) -> nn.Conv2d:
    """What makes tokens of patches."""
    embed = network.patch_embed  # of HiViT and of timm: proj
    return embed.proj if hasattr(embed, 'proj') else embed.projection


def patch_size(network: nn.Module) -> Tuple[int, int]:
    """Height and width of a patch in pixels."""
    if isinstance(network, HiViT):  # its stem downsamples further
        return tuple(network.patch_embed.patch_size)
    return tuple(projection(network).kernel_size)


def img_size(network: nn.Module) -> Tuple[int, int]:
    """Height and width of an image in pixels."""
    owner = network.patch_embed if isinstance(network, HiViT) else network
    return tuple(owner.img_size)


def patch_grid(network: nn.Module) -> Tuple[int, int]:
    """Rows and columns of patches."""
    if isinstance(network, HiViT):
        return tuple(network.patch_embed.patches_resolution)
    return tuple(network.patch_resolution)


def prefix_tokens(network: nn.Module) -> Tuple[int, bool]:
    """Number of tokens in front of the patches in a block's output, and
    whether the first is CLS.

    A :class:`MaskedTimmViT` has both numbers: its ``num_extra_tokens`` are
    those in what it returns, without registers.
    """
    extra = getattr(network, 'num_extra_tokens', 0)
    return getattr(network, 'num_prefix_tokens', extra), extra > 0
