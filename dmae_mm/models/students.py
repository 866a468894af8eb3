"""What a distillation needs to know about a student and its images."""
from dataclasses import dataclass
from typing import Optional, Sequence, Tuple

import torch.nn as nn

from .backbones import blocks, img_size, patch_grid, patch_size


@dataclass(frozen=True)
class StudentInput:
    """The images that a student gets: its teacher must see the same.

    Attributes:
        img_size (tuple[int, int], optional): Height and width in pixels. None
            if any size is taken.
        patch_grid (tuple[int, int], optional): Rows and columns of patches.
            None if there are no patches.
        in_channels (int): Channels of the images.
        mean (tuple[float], optional): Per channel, what was subtracted from
            pixel values of 0 to 255. None if the model does not normalise.
        std (tuple[float], optional): Per channel, by what they were divided.
    """
    img_size: Optional[Tuple[int, int]]
    patch_grid: Optional[Tuple[int, int]]
    in_channels: int
    mean: Optional[Tuple[float, ...]] = None
    std: Optional[Tuple[float, ...]] = None

    @classmethod
    def of(cls,
           backbone: nn.Module,
           data_preprocessor: nn.Module,
           img_size: Optional[Tuple[int, int]] = None,
           patch_grid: Optional[Tuple[int, int]] = None) -> 'StudentInput':
        """Look at a backbone of any kind and how its images are normalised.

        Args:
            backbone (nn.Module): The student's.
            data_preprocessor (nn.Module): That of the model.
            img_size (tuple[int, int], optional): As the attribute.
            patch_grid (tuple[int, int], optional): As the attribute.

        Returns:
            StudentInput: What was found.
        """
        channels = input_channels(backbone)
        mean, std = (  # of all channels, where one value stands for all
            tuple(getattr(data_preprocessor, name).flatten().expand(
                channels).tolist()) if hasattr(data_preprocessor, name)
            else None for name in ('mean', 'std'))
        return cls(img_size, patch_grid, channels, mean, std)


@dataclass(frozen=True)
class Student:
    """One view of the backbones whose block outputs can be aligned.

    Attributes:
        blocks (Sequence[nn.Module]): The blocks whose outputs can be aligned,
            each (B, P + K, C). Of a hierarchical backbone: its main stage.
        patch_size (int): Side of a patch in pixels.
        num_patches (int): Patches of an image, L.
        input (StudentInput): Its images.
    """
    blocks: Sequence[nn.Module]
    patch_size: int
    num_patches: int
    input: StudentInput

    @classmethod
    def of(cls, backbone: nn.Module,
           data_preprocessor: nn.Module) -> 'Student':
        """Look at a backbone and at how its images are normalised.

        Args:
            backbone (nn.Module): A plain ViT or HiViT of mmpretrain.
            data_preprocessor (nn.Module): That of the model.

        Returns:
            Student: The view.
        """
        grid = patch_grid(backbone)
        return cls(
            blocks=blocks(backbone),
            patch_size=patch_size(backbone)[0],
            num_patches=grid[0] * grid[1],
            input=StudentInput.of(backbone, data_preprocessor,
                                  img_size(backbone), grid))


def input_channels(network: nn.Module) -> int:
    """Channels of the images that a network takes: its first convolution's."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            return module.in_channels
    return 3
