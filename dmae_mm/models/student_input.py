from dataclasses import dataclass, replace
from typing import Optional, Sequence, Tuple

import torch.nn as nn

from .mmpretrain_vits import img_size, patch_grid


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
        to_rgb (bool, optional): Whether the order of the channels was
            reversed after loading. None if the model does not normalise.
        units (tuple[int, int], optional): Rows and columns of the regions
            that a mask hides or shows as a whole, where the student has no
            patches. None if there are none.
    """
    img_size: Optional[Tuple[int, int]]
    patch_grid: Optional[Tuple[int, int]]
    in_channels: int
    mean: Optional[Tuple[float, ...]] = None
    std: Optional[Tuple[float, ...]] = None
    to_rgb: Optional[bool] = None
    units: Optional[Tuple[int, int]] = None

    @classmethod
    def of(cls, backbone: nn.Module,
           data_preprocessor: nn.Module) -> 'StudentInput':
        """Of a backbone of any kind, whose images may have any size.

        Args:
            backbone (nn.Module): The student's.
            data_preprocessor (nn.Module): That of the model, which normalises
                its images.

        Returns:
            StudentInput: What was found.
        """
        channels = input_channels(backbone)
        mean, std = (  # of all channels, where one value stands for all
            tuple(getattr(data_preprocessor, name).flatten().expand(
                channels).tolist()) if hasattr(data_preprocessor, name)
            else None for name in ('mean', 'std'))
        to_rgb = None if mean is None else bool(
            getattr(data_preprocessor, 'to_rgb', False)
            or getattr(data_preprocessor, '_channel_conversion', False))
        return cls(None, None, channels, mean, std, to_rgb)

    @classmethod
    def of_vit(cls, backbone: nn.Module,
               data_preprocessor: nn.Module) -> 'StudentInput':
        """Of a vision transformer, which cuts its images into patches.

        Args:
            backbone (nn.Module): A plain ViT or HiViT of mmpretrain.
            data_preprocessor (nn.Module): That of the model.

        Returns:
            StudentInput: What was found.
        """
        return replace(
            cls.of(backbone, data_preprocessor),
            img_size=img_size(backbone),
            patch_grid=patch_grid(backbone))

    def teacher_grid(self, own: Tuple[int, int],
                     patch_size: Tuple[int, int]) -> Tuple[int, int]:
        """Into which grid of patches a teacher is to cut these images.

        Where the student has patches: the same. Where a mask has units: each
        must be whole patches of the teacher. If its own grid does not have
        them, a unit gets the number of patches that is closest to its size,
        so that 32 px are 2 x 2 patches of 16 px, or of 14 px of a resized
        image.

        Args:
            own (tuple[int, int]): Rows and columns of the teacher's patches,
                as its checkpoint has them.
            patch_size (tuple[int, int]): Their height and width in pixels.

        Returns:
            tuple[int, int]: Rows and columns.
        """
        if self.patch_grid is not None:
            return self.patch_grid
        if self.units is None or not any(
                patches % units for patches, units in zip(own, self.units)):
            return own
        return tuple(
            units * max(1, round(size / units / patch)) for size, units, patch
            in zip(self.img_size, self.units, patch_size))

    def of_channels(self, channels: Sequence[int]) -> 'StudentInput':
        """The same images with some of their channels, perhaps repeated."""
        mean, std = (values and tuple(values[c] for c in channels)
                     for values in (self.mean, self.std))
        return replace(self, in_channels=len(channels), mean=mean, std=std)


def input_channels(network: nn.Module) -> int:
    """Channels of the images that a network takes: its first convolution's."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            return module.in_channels
    return 3
