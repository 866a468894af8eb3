from abc import abstractmethod
from typing import Optional, Sequence, Tuple

import torch
import torch.nn as nn

from dmae_mm.models.students import StudentInput

from .checks import check_images
from .frozen_teacher import FrozenTeacher
from .image_matching import ImageMatcher


class BaseTeacher(FrozenTeacher):
    """A frozen network that shows a student its features of visible patches.

    A subclass builds its network truncated after the last aligned block,
    hands it to this constructor, and defines :meth:`load_weights` and
    :meth:`extract_features`.

    Args:
        network (nn.Module): The truncated network.
        aligned_blocks (Sequence[int]): 0-based index of the teacher block of
            each aligned pair, in the order of the pairs.
        embed_dims (int): Width of the features.
        num_layers (int): Number of blocks before truncation, to which
            negative indices and depth fractions refer.
        num_prefix_tokens (int): Tokens in front of the patch tokens.
        has_cls_token (bool): Whether the first prefix token is CLS.
        img_size (tuple[int, int]): Input height and width in pixels.
        patch_grid (tuple[int, int]): Rows and columns of patches.
        in_channels (int): Channels of the images. Defaults to 3.
        checkpoint (str, optional): See :class:`FrozenTeacher`.
        sha256 (str, optional): See :class:`FrozenTeacher`.
        mean (Sequence[float], optional): What the teacher wants subtracted
            from pixel values of 0 to 255, per channel. Defaults to None, the
            same normalisation as the student's.
        std (Sequence[float], optional): By what it wants them divided.
        dtype (str): See :class:`FrozenTeacher`. Defaults to 'float32'.
        student_input (StudentInput, optional): The student's images, from
            which the teacher's are made: see :class:`ImageMatcher`. With None
            they must be the teacher's own.
        allow_random (bool): See :class:`FrozenTeacher`.

    Raises:
        ValueError: If there is neither a checkpoint nor ``allow_random``, or
            an option has an illegal value, or the student's images have
            another number of channels or another grid of patches.
    """

    def __init__(self,
                 network: nn.Module,
                 aligned_blocks: Sequence[int],
                 embed_dims: int,
                 num_layers: int,
                 num_prefix_tokens: int,
                 has_cls_token: bool,
                 img_size: Tuple[int, int],
                 patch_grid: Tuple[int, int],
                 in_channels: int = 3,
                 checkpoint: Optional[str] = None,
                 sha256: Optional[str] = None,
                 mean: Optional[Sequence[float]] = None,
                 std: Optional[Sequence[float]] = None,
                 dtype: str = 'float32',
                 student_input: Optional[StudentInput] = None,
                 allow_random: bool = False) -> None:
        check_images(student_input, in_channels, patch_grid)
        super().__init__(
            network=network,
            images=ImageMatcher(student_input, tuple(img_size), mean, std),
            aligned_blocks=aligned_blocks,
            img_size=tuple(img_size),
            checkpoint=checkpoint,
            sha256=sha256,
            dtype=dtype,
            allow_random=allow_random)
        self.embed_dims = embed_dims
        self.num_layers = num_layers
        self.num_prefix_tokens = num_prefix_tokens
        self.has_cls_token = has_cls_token
        self.patch_grid = tuple(patch_grid)

    @abstractmethod
    def extract_features(
            self, images: torch.Tensor,
            ids_keep: Optional[torch.Tensor]) -> Tuple[torch.Tensor, ...]:
        """Forward pass on images that are the teacher's own.

        Args:
            images (torch.Tensor): (B, C, *img_size), float32.
            ids_keep (torch.Tensor, optional): As in :meth:`forward`.

        Returns:
            tuple[torch.Tensor]: As :meth:`forward`, of any float type.
        """

    def forward(
            self, images: torch.Tensor,
            ids_keep: Optional[torch.Tensor]) -> Tuple[torch.Tensor, ...]:
        """Features of the visible patches at the aligned blocks.

        Args:
            images (torch.Tensor): The student's normalised images,
                (B, 3, H, W).
            ids_keep (torch.Tensor, optional): Indices of the K visible
                patches of each image, row by row over the patch grid, (B, K),
                int64. None: all, in their order.

        Returns:
            tuple[torch.Tensor]: For each aligned pair the output of its
            teacher block, (B, P + K, C), the P prefix tokens first and the
            patches in the order of ``ids_keep``. float32, no gradient.
        """
        return self.run(self.extract_features, images, ids_keep)

    def describe_images(self) -> str:
        """See :meth:`FrozenTeacher.describe_images`."""
        return '{} x {} patches in '.format(
            *self.patch_grid) + super().describe_images()
