"""Of which grid of patches are the positions in a checkpoint?

Equal shapes do not tell: 4 x 4 and 2 x 8 patches have as many positions, and
the hosts resample where shapes differ, and only there.
"""
import math
from dataclasses import dataclass
from typing import Any, List, Optional, Sequence, Tuple

import torch
import torch.nn as nn
from mmengine.utils.dl_utils.parrots_wrapper import _BatchNorm
from mmpretrain.models.utils import resize_pos_embed

from .origin import KEY, Origin, square
from .tensor_file import Tensors

Grid = Tuple[int, int]  # rows and columns
_POSITIONS = ('pos_embed', 'absolute_pos_embed')
# Where a backbone keeps its grid of patches.
_OWN_GRIDS = ('patch_resolution', 'patch_shape', 'patch_embed.init_out_size',
              'patch_embed.grid_size', 'patch_embed.patches_resolution')


@dataclass(frozen=True)
class PositionGrids:
    """Grids of the positions that a backbone loads from a file.

    Attributes:
        source (Grid): Of the file: what it says, or a square.
        is_said (bool): Whether the file says so.
        assumed (Grid): What the host takes them for: its own grid where the
            shapes are equal, else a square.
        own (Grid): Of the backbone.
        num_prefix (int): Positions of tokens in front of the patches.
        surplus (int): Positions in the file in front of these: 1 where the
            backbone lacks the CLS token of the file.
        host_surplus (int): How many the host drops there: one where there is
            one too many, whatever it is.
        mode (str): How the backbone interpolates.
    """
    source: Grid
    is_said: bool
    assumed: Grid
    own: Grid
    num_prefix: int
    surplus: int
    host_surplus: int
    mode: str

    @classmethod
    def of(cls, backbone: nn.Module, name: str, weights: Tensors,
           origin: Origin) -> Optional['PositionGrids']:
        """Of one tensor of a file.

        Args:
            backbone (nn.Module): The backbone, built.
            name (str): The tensor's name in it.
            weights (dict[str, torch.Tensor]): The file's tensors, by their
                names in the backbone; the positions are (1, P + L, C) or
                (1, H, W, C).
            origin (Origin): What the file says.

        Returns:
            PositionGrids | None: None if it has no positions, or nobody can
            tell their grid.
        """
        if name.rsplit('.', 1)[-1] not in _POSITIONS:
            return None
        given, own_tensors = weights[name], backbone.state_dict()
        tensor = own_tensors[name]
        if not 3 <= given.dim() <= 4 or given.shape[-1] != tensor.shape[-1]:
            return None
        is_map = tensor.dim() == 4  # of ViTSAM: (1, H, W, C), without prefix
        number = math.prod(tensor.shape[1:-1])
        own = tuple(tensor.shape[1:3]) if is_map else own_grid(
            backbone, name) or square(number)
        if own is None or number < math.prod(own):
            return None
        num_prefix = number - math.prod(own)
        mode = getattr(backbone, 'interpolate_mode', 'bicubic')
        if given.dim() == 4:
            source = tuple(given.shape[1:3])
            return cls(source, True, source, own, num_prefix, 0, 0, mode)

        patches = given.shape[1] - num_prefix
        cls_token = f'{name.rpartition("pos_embed")[0]}cls_token'
        # A CLS token need not have a position.
        lacks_cls = cls_token in weights and cls_token not in own_tensors
        surplus = int(lacks_cls and not origin.grid(patches) and bool(
            origin.grid(patches - 1) or patches - 1 == math.prod(own)
            or not square(patches)))
        host_surplus = surplus if is_map else int(
            num_prefix == 0 and patches == math.prod(own) + 1)
        said = origin.grid(patches - surplus)
        assumed = square(patches - host_surplus)
        if patches - host_surplus == math.prod(own) and not is_map:
            assumed = own
        source = said or square(patches - surplus) or assumed
        if assumed is None or math.prod(source) != patches - surplus:
            return None
        return cls(source, said is not None, assumed, own, num_prefix, surplus,
                   host_surplus, mode)

    @property
    def differ(self) -> bool:
        """Whether the host takes the positions for those of other places."""
        return self.source != self.assumed

    def resampled(self, given: torch.Tensor,
                  shape: Sequence[int]) -> torch.Tensor:
        """The positions on the backbone's grid, by the host's own function.

        Args:
            given (torch.Tensor): The file's, (1, P + L, C) or (1, H, W, C).
            shape (Sequence[int]): The backbone's.
        """
        return self._resampled(given, shape, self.source, self.surplus)

    def as_host_does(self, given: torch.Tensor,
                     shape: Sequence[int]) -> torch.Tensor:
        """The positions that loading leaves in the backbone."""
        return self._resampled(given, shape, self.assumed, self.host_surplus)

    def _resampled(self, given: torch.Tensor, shape: Sequence[int],
                   source: Grid, surplus: int) -> torch.Tensor:
        tokens = given.reshape(1, -1, given.shape[-1])[:, surplus:]
        return resize_pos_embed(tokens, source, self.own, self.mode,
                                self.num_prefix).reshape(shape)


def other_meaning(network: nn.Module, weights: Tensors,
                  origin: Origin) -> List[str]:
    """What of a file fits by name and shape, but means something else.

    Args:
        network (nn.Module): A backbone, or a model with one under
            ``backbone.``.
        weights (dict[str, torch.Tensor]): The file's tensors, by their names
            in the network.
        origin (Origin): What the file says.

    Returns:
        list[str]: The problems.
    """
    own = network.state_dict()
    backbone = getattr(network, 'backbone', network)
    problems = []
    for name in weights:
        grids = name in own and PositionGrids.of(network, name, weights,
                                                 origin)
        if grids and grids.differ:
            problems.append(grid_problem(name, grids.source, grids.assumed,
                                         origin if grids.is_said else None))
    return problems + other_options(backbone, origin)


def other_options(backbone: nn.Module, origin: Origin) -> List[str]:
    """The problems of options that no shape shows: another number of
    attention heads, style of a ResNet, epsilon of batch norms, or padding."""
    epsilons = {
        module.eps
        for module in backbone.modules() if isinstance(module, _BatchNorm)
    }
    # Of several, nobody can tell whose the file's is.
    eps = epsilons.pop() if len(epsilons) == 1 else None
    return [
        *other_heads(backbone, origin),
        *_other_option('style', origin.style,
                       getattr(backbone, 'style', None), origin),
        *_other_option('norm_cfg.eps', origin.norm_eps, eps, origin),
        *_other_padding(backbone, origin)
    ]


def other_heads(backbone: nn.Module, origin: Origin) -> List[str]:
    """The problem of another number of attention heads, in a list."""
    return _other_option('num_heads', origin.num_heads,
                         own_num_heads(backbone), origin)


def _other_padding(backbone: nn.Module, origin: Origin) -> List[str]:
    """The problem of mmpretrain's MobileNetV3 in mmseg's, in a list."""
    owner = type(backbone).__module__
    if (origin.backbone != 'mmpretrain.MobileNetV3'
            or owner != 'mmseg.models.backbones.mobilenet_v3'):
        return []
    return [f"{origin.said_by} says type='{origin.backbone}', but mmseg's "
            'pads its strided convolutions otherwise, which no shape shows']


def _other_option(name: str, said: Any, own: Any,
                  origin: Origin) -> List[str]:
    if None in (said, own) or said == own:
        return []
    return [f'{origin.said_by} says {name}={said!r}, but the backbone has '
            f'{name}={own!r}, which no shape shows']


def other_grid(own: Grid, origin: Origin) -> List[str]:
    """The problem of a file with as many positions of another grid.

    Args:
        own (Grid): The grid that the config says the file has.
        origin (Origin): What the file says.

    Returns:
        list[str]: The problem, or nothing.
    """
    number = math.prod(own)
    said = origin.grid(number)
    source = said or square(number)
    if source in (None, tuple(own)):
        return []
    return [grid_problem('its pos_embed', source, own,
                         origin if said else None)]


def grid_problem(name: str, source: Grid, taken_for: Grid,
                 origin: Optional[Origin]) -> str:
    """The problem of positions of another grid; without an origin, the file
    does not say which it is."""
    said = (f'as {origin.said_by} says' if origin else
            'a square, since the file does not say otherwise')
    said_how = '' if origin else (
        f" (in its meta, {KEY}=dict(img_size=[height, width]))")
    return ('{} has positions of {} x {} patches ({}{}), which would be taken '
            'for {} x {}: all of them in wrong places'.format(
                name, *source, said, said_how, *taken_for))


def own_grid(backbone: nn.Module, name: str = 'pos_embed') -> Optional[Grid]:
    """Rows and columns of patches of whose positions have this name."""
    owner = backbone.get_submodule(name.rpartition('.')[0])
    for path in _OWN_GRIDS:
        found = owner
        for part in path.split('.'):
            found = getattr(found, part, None)
        if found is not None:
            return tuple(map(int, found))
    return None


def own_num_heads(backbone: nn.Module) -> Optional[int]:
    """Attention heads of the first block."""
    return next((module.num_heads for module in backbone.modules()
                 if type(getattr(module, 'num_heads', None)) is int), None)


def resampled_table(given: torch.Tensor,
                    shape: Sequence[int]) -> Optional[torch.Tensor]:
    """Relative positions of one square window for another, by the host's own
    function.

    Args:
        given (torch.Tensor): A table, (L, heads).
        shape (Sequence[int]): That of the result.

    Returns:
        torch.Tensor | None: The table; None for shapes that are none.
    """
    if given.dim() != 2 or len(shape) != 2 or given.shape[1] != shape[1]:
        return None
    side = math.isqrt(shape[0])
    num_prefix = shape[0] - side * side  # what belongs to CLS
    source = math.isqrt(len(given) - num_prefix)
    if source * source != len(given) - num_prefix:
        return None
    return resize_pos_embed(given[None], (source, source), (side, side),
                            'bicubic', num_prefix)[0]
