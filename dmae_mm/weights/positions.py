"""Position embeddings on another grid of patches."""
import math
from typing import Optional, Sequence

import torch
import torch.nn as nn
from mmpretrain.models.utils import resize_pos_embed


def resampled_positions(backbone: nn.Module, given: torch.Tensor,
                        shape: Sequence[int]) -> Optional[torch.Tensor]:
    """Positions as the host resamples them, by a call of its function.

    Args:
        backbone (nn.Module): It says how it interpolates.
        given (torch.Tensor): Positions of a square grid: (1, P + L, C) with
            P of prefix tokens, (1, H, W, C), or a table, (L, heads).
        shape (Sequence[int]): Shape of the result: the same, or without P.

    Returns:
        torch.Tensor | None: The positions; None for shapes that are not
        those of the same number of channels on grids.
    """
    if given.shape[-1] != shape[-1] or not 2 <= given.dim() <= 4:
        return None
    tokens = given.reshape(1, -1, given.shape[-1])  # (1, P + L, C)
    number = math.prod(shape[:-1])
    if len(shape) == 4:
        num_prefix, grid = 0, tuple(shape[1:3])
    else:
        grid = getattr(backbone, 'patch_resolution', None) or getattr(
            backbone, 'patch_shape', None)
        if len(shape) == 2 or grid is None:
            grid = (math.isqrt(number), ) * 2
        num_prefix = number - math.prod(grid)
    if given.dim() == 4:
        source = tuple(given.shape[1:3])
    else:
        source = (math.isqrt(tokens.shape[1] - num_prefix), ) * 2
    surplus = tokens.shape[1] - num_prefix - math.prod(source)
    if num_prefix < 0 or surplus not in (0, 1) or (surplus and num_prefix):
        return None
    mode = getattr(backbone, 'interpolate_mode', 'bicubic')
    # One position too many is that of CLS, where the backbone has none.
    return resize_pos_embed(tokens[:, surplus:], source, tuple(grid), mode,
                            num_prefix).reshape(shape)
