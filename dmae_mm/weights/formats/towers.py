"""Where in a file a vision transformer is, and of what sizes."""
from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Tuple

from dmae_mm.messages import first_few

from ..origin import square
from ..tensor_file import Tensors

# What the averaged one of several networks is called.
_AVERAGED = {'teacher', 'ema', 'model_ema', 'teacher_backbone'}


def prefixes_of(tensors: Tensors, *landmarks: str) -> List[str]:
    """What may stand in front of a network's names.

    Args:
        tensors (dict[str, torch.Tensor]): All of a file.
        landmarks (str): Names that such a network has, without prefix.

    Returns:
        list[str]: The prefixes, '' for none, under which all of them are.
    """
    first, *others = landmarks
    found = [
        name.removesuffix(first) for name in tensors
        if name == first or name.endswith(f'.{first}')
    ]
    return [
        prefix for prefix in found
        if all(prefix + other in tensors for other in others)
    ]


def choose_prefix(prefixes: List[str]) -> str:
    """Of several networks in a file, the averaged one of self-distillation,
    or the one that MoCo calls its base.

    Raises:
        ValueError: If that leaves none, or several.
    """
    averaged = [p for p in prefixes if _AVERAGED & set(p.split('.'))]
    base = [p for p in prefixes if p.endswith('base_encoder.')]
    for chosen in (prefixes, averaged, base):
        if len(chosen) == 1:
            return chosen[0]
    raise ValueError(
        'it holds several vision transformers, whose names begin with '
        f'{first_few([repr(prefix) for prefix in prefixes])}. Save one of '
        'them alone: its state_dict(), with torch.save or safetensors')


def others(tensors: Tensors, prefix: str) -> List[str]:
    """What a file holds that is not under a prefix, for the log."""
    return list(
        dict.fromkeys(
            name.split('.')[0] for name in tensors
            if not name.startswith(prefix)))


@dataclass(frozen=True)
class Sizes:
    """Sizes of a vision transformer under timm's names.

    Attributes:
        width (int): Of its tokens.
        depth (int): Number of its blocks.
        patch (int): Side of a patch.
        img_size (int, optional): Side of the images for whose patches it has
            positions; None if they are no square.
    """
    width: int
    depth: int
    patch: int
    img_size: Optional[int]

    @classmethod
    def of(cls, tensors: Tensors, num_prefix: int = 1) -> 'Sizes':
        """Read them off.

        Args:
            tensors (dict[str, torch.Tensor]): Under timm's names.
            num_prefix (int): Positions in front of those of the patches.
        """
        weight = tensors['patch_embed.proj.weight']
        blocks = {
            name.split('.')[1] for name in tensors
            if name.startswith('blocks.')
        }
        positions = tensors.get('pos_embed')
        grid = None
        if positions is not None and positions.dim() == 3:
            grid = square(max(positions.shape[1] - num_prefix, 0))
        return cls(
            width=weight.shape[0],
            depth=len(blocks),
            patch=weight.shape[-1],
            img_size=grid and grid[0] * weight.shape[-1])

    def model(self, names: Dict[Tuple[int, int, int],
                                str]) -> Tuple[Optional[str], Dict[str, Any]]:
        """Which architecture it is.

        Args:
            names (dict): timm's names by (width, depth, patch).

        Returns:
            tuple[str | None, dict]: The name and further arguments of
            ``timm.create_model``.
        """
        name = names.get((self.width, self.depth, self.patch))
        if name is None or not self.img_size:
            return name, {}
        return name, dict(img_size=self.img_size)
