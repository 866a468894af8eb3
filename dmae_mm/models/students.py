"""What DMAE needs to know about a student's backbone."""
from dataclasses import dataclass
from typing import Optional, Sequence, Tuple

import torch.nn as nn
from mmpretrain.models.selfsup import MAEHiViT, MAEViT


@dataclass(frozen=True)
class StudentInput:
    """The images that a student gets: its teacher must see the same.

    Attributes:
        img_size (tuple[int, int]): Height and width in pixels.
        patch_grid (tuple[int, int]): Rows and columns of patches.
        in_channels (int): Channels of the images.
        mean (tuple[float], optional): Per channel, what was subtracted from
            pixel values of 0 to 255. None if the model does not normalise.
        std (tuple[float], optional): Per channel, by what they were divided.
    """
    img_size: Tuple[int, int]
    patch_grid: Tuple[int, int]
    in_channels: int
    mean: Optional[Tuple[float, ...]] = None
    std: Optional[Tuple[float, ...]] = None


@dataclass(frozen=True)
class Student:
    """One view of the masked backbones of mmpretrain.

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
            backbone (nn.Module): A ``MAEViT`` or ``MAEHiViT``.
            data_preprocessor (nn.Module): That of the model.

        Returns:
            Student: The view.

        Raises:
            ValueError: If the backbone is none of these.
        """
        if isinstance(backbone, MAEViT):
            blocks = backbone.layers
            projection = backbone.patch_embed.projection
            patch_size = projection.kernel_size[0]
            img_size, grid = backbone.img_size, backbone.patch_resolution
        elif isinstance(backbone, MAEHiViT):
            blocks = backbone.blocks[-backbone.num_main_blocks:]
            projection = backbone.patch_embed.proj
            patch_size = backbone.patch_embed.patch_size[0]
            img_size = backbone.patch_embed.img_size
            grid = backbone.patch_embed.patches_resolution
        else:
            raise ValueError(
                f'backbone: type={type(backbone).__name__!r} is not supported '
                'as a student. Choose MAEViT or MAEHiViT.')
        channels = projection.in_channels
        mean, std = (  # of all channels, where one value stands for all
            tuple(getattr(data_preprocessor, name).flatten().expand(
                channels).tolist()) if hasattr(data_preprocessor, name)
            else None for name in ('mean', 'std'))
        return cls(
            blocks=blocks,
            patch_size=patch_size,
            num_patches=backbone.num_patches,
            input=StudentInput(
                img_size=tuple(img_size),
                patch_grid=tuple(grid),
                in_channels=channels,
                mean=mean,
                std=std))
