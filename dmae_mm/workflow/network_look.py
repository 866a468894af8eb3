"""What is asked of networks before a run, without their memory or weights."""
from typing import Optional

import torch
import torch.nn as nn
from mmengine.registry import DefaultScope
from mmpretrain.registry import MODELS

from dmae_mm.host import quietly
from dmae_mm.messages import one_line
from dmae_mm.models.students import outputs_of_whole_images


def build_without_data(section: dict, what: str) -> nn.Module:
    """Build a module of mmpretrain whose tensors have no data.

    Args:
        section (dict): Its config. An ``init_cfg`` is left out.
        what (str): How an error calls it.

    Returns:
        nn.Module: On the device 'meta'; on the CPU if it cannot be built
        there, as some ask tensors for their values.

    Raises:
        ValueError: If it cannot be built, whatever its class raises then.
    """
    cfg = {key: value for key, value in section.items() if key != 'init_cfg'}
    with torch.random.fork_rng(devices=[]), quietly(
    ), DefaultScope.overwrite_default_scope('mmpretrain'):
        try:
            with torch.device('meta'):
                return MODELS.build(dict(cfg))
        except Exception:  # of the many kinds that such tensors raise
            try:
                return MODELS.build(dict(cfg))
            except Exception as error:  # whatever a class raises
                raise ValueError(
                    f'{what}: it cannot be built: {one_line(error)}'
                ) from None


def parameters_of(network: nn.Module) -> int:
    """How many numbers it learns, or has learnt."""
    return sum(parameter.numel() for parameter in network.parameters())


def why_not_at(network: nn.Module, size: int,
               channels: int) -> Optional[str]:
    """Why a backbone makes no map of images of a size.

    Args:
        network (nn.Module): Of :func:`build_without_data`.
        size (int): Height and width in pixels.
        channels (int): Of the images.

    Returns:
        str | None: The error of its forward pass, or what else it returns;
        None if all is well.
    """
    device = next(network.parameters()).device
    network.eval()  # which returns None in mmpretrain
    with torch.no_grad(), torch.random.fork_rng(devices=[]), quietly():
        try:
            outputs = outputs_of_whole_images(
                network,
                torch.zeros(2, channels, size, size, device=device))
        except Exception as error:  # whatever a backbone raises
            return f'on {size} x {size} pixels, {one_line(error)}'
    last = outputs[-1]
    if isinstance(last, torch.Tensor) and last.dim() == 4:
        return None
    return 'it returns no map, (B, C, rows, columns), of its last stage'
