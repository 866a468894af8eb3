"""Feature maps of a student that is masked in regions."""
from typing import Tuple

import torch
import torch.nn.functional as F

from .feature_maps import on_grid
from .tokens import take

Grid = Tuple[int, int]  # rows, columns


def to_map(tokens: torch.Tensor) -> torch.Tensor:
    """Tokens of a square map, row by row, (B, n * n, C), as (B, C, n, n)."""
    side = round(tokens.shape[1]**.5)
    return tokens.transpose(1, 2).unflatten(2, (side, side))


def patches_of_units(ids: torch.Tensor, units: Grid,
                     grid: Grid) -> torch.Tensor:
    """The patches of a finer grid that lie in some units of an image.

    Args:
        ids (torch.Tensor): Indices of units, row by row, (B, K), int64.
        units (tuple[int, int]): Rows and columns of units.
        grid (tuple[int, int]): Rows and columns of patches, multiples of
            those.

    Returns:
        torch.Tensor: Indices of patches, row by row over their grid,
        (B, K * M), int64: the M patches of the first unit, and so on.
    """
    rows, columns = grid[0] // units[0], grid[1] // units[1]
    corner = ids // units[1] * rows * grid[1] + ids % units[1] * columns
    inside = (
        torch.arange(rows, device=ids.device)[:, None] * grid[1] +
        torch.arange(columns, device=ids.device))
    return (corner[..., None] + inside.flatten()).flatten(1)


def visible_tokens(feature: torch.Tensor, ids_keep: torch.Tensor, units: Grid,
                   grid: Grid) -> torch.Tensor:
    """What the visible units of a map say of a teacher's patches in them.

    The map is brought to the teacher's grid by :func:`on_grid`, where hidden
    units do not count: an interpolated token is the weighted mean of
    its visible neighbours.

    Args:
        feature (torch.Tensor): (B, C, h, w), with h and w multiples of
            ``units``, or the tokens of a square map, (B, n * n, C).
        ids_keep (torch.Tensor): Indices of the visible units, row by row,
            (B, K), int64.
        units (tuple[int, int]): Rows and columns of units.
        grid (tuple[int, int]): Rows and columns of the teacher's patches.

    Returns:
        torch.Tensor: (B, K * M, C), in the order of
        :func:`patches_of_units`.
    """
    if feature.dim() == 3:
        feature = to_map(feature)
    size = feature.shape[-2:]
    visible = feature.new_zeros(len(ids_keep), units[0] * units[1])
    visible = visible.scatter(1, ids_keep, 1.).unflatten(1, units)
    visible = F.interpolate(visible.unsqueeze(1), size=size)  # nearest
    ids = patches_of_units(ids_keep, units, grid)
    # Where nothing is visible the weight is 0, so first take, then divide.
    tokens, weight = (
        take(on_grid(part, grid), ids)
        for part in (feature * visible, visible))
    return tokens / weight
