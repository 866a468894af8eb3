import logging
import math
from typing import Optional, Sequence, Tuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from mmengine.logging import print_log

from dmae_mm.models.student_input import StudentInput


class ImageMatcher(nn.Module):
    """Picks channels of a student's images, renormalises and resizes them.

    The student's (x - mean_s) / std_s becomes (x - mean_t) / std_t by one
    multiplication and one addition. Where the teacher's images have another
    size, they are resized as a whole (bicubic, antialiased), so that both
    sides cut the same regions into the same grid of patches. A pixel of a
    resized image mixes its neighbourhood: at the border of a visible patch
    that is some pixels of hidden ones.

    Args:
        student_input (StudentInput, optional): The student's images. With
            None the images are passed on as they are.
        img_size (tuple[int, int], optional): Height and width of the
            teacher's images; None for any.
        mean (Sequence[float], optional): The teacher's, per channel, of pixel
            values from 0 to 255. None: the same normalisation as the
            student's.
        std (Sequence[float], optional): As ``mean``.
        channels (Sequence[int], optional): Which of the student's channels
            are those of the teacher; one may be named more than once.
            Defaults to None: all.

    Raises:
        ValueError: If ``mean`` and ``std`` are not both given, or are not
            numbers of that range, one for each channel.
    """

    def __init__(self,
                 student_input: Optional[StudentInput],
                 img_size: Optional[Tuple[int, int]],
                 mean: Optional[Sequence[float]] = None,
                 std: Optional[Sequence[float]] = None,
                 channels: Optional[Sequence[int]] = None) -> None:
        super().__init__()
        if channels is not None:
            student_input = student_input.of_channels(channels)
        # By the channel, since a list as an index comes from the host.
        self.channels = channels
        self.student_input = student_input
        self.size = None
        self.knows_student_size = bool(student_input
                                       and student_input.img_size)
        if student_input is not None and student_input.img_size != img_size:
            self.size = img_size
        self.register_buffer('scale', None, persistent=False)
        self.register_buffer('shift', None, persistent=False)
        self.normalise(mean, std)

    def normalise(self, mean: Optional[Sequence[float]],
                  std: Optional[Sequence[float]]) -> None:
        """Set the teacher's mean and std, as in the constructor."""
        student_input = self.student_input
        _check(mean, std, student_input)
        self.mean, self.std = mean, std
        self.scale = self.shift = None
        if mean is None or student_input is None:
            return
        if student_input.mean is None:
            print_log(
                'The data_preprocessor of the model does not normalise the '
                'images, so they reach the teacher as they are. It expects '
                f'mean={list(mean)} and std={list(std)} of values from 0 to '
                '255: normalise in data_preprocessor, not in the pipeline.',
                logger='current',
                level=logging.WARNING)
            return
        scale = [ours / its for ours, its in zip(student_input.std, std)]
        shift = [(ours - its) / by
                 for ours, its, by in zip(student_input.mean, mean, std)]
        # 255 * 0.485 is not quite 123.675.
        if max(abs(s - 1) for s in scale) + max(map(abs, shift)) > 1e-5:
            self.scale = torch.tensor(scale).view(-1, 1, 1)
            self.shift = torch.tensor(shift).view(-1, 1, 1)

    def forward(self,
                images: torch.Tensor,
                size: Optional[Tuple[int, int]] = None) -> torch.Tensor:
        """Convert a batch on its device.

        Args:
            images (torch.Tensor): The student's, (B, C, H, W).
            size (tuple[int, int], optional): Height and width of the
                teacher's for this batch. Defaults to ``img_size``.

        Returns:
            torch.Tensor: The teacher's, (B, C_t, H_t, W_t); the same tensor
            where nothing differs.
        """
        if self.channels is not None:
            images = torch.stack([images[:, c] for c in self.channels], dim=1)
        if self.scale is not None:
            images = torch.addcmul(self.shift, images, self.scale)
        size = self.size if size is None else size
        if size not in (None, tuple(images.shape[-2:])):
            images = F.interpolate(
                images, size=size, mode='bicubic', antialias=True)
        return images

    def describe(self) -> str:
        """What happens to the images, for the log; '' for nothing."""
        said = ''
        if self.channels is not None:
            said += f", of the student's channels {list(self.channels)}"
        if self.size is not None:
            said += ", resized from the student's"
            said += ' where they differ' * (not self.knows_student_size)
        if self.scale is not None:
            mean, std = ([round(value, 3) for value in values]
                         for values in (self.mean, self.std))
            said += f', normalised with mean={mean} and std={std}'
        return said


def _check(mean: Optional[Sequence[float]], std: Optional[Sequence[float]],
           student_input: Optional[StudentInput]) -> None:
    if mean is None and std is None:
        return
    given = f'teacher: mean={mean!r}, std={std!r}'
    if mean is None or std is None:
        raise ValueError(f'{given}: give both or none of them.')
    channels = len(mean) if student_input is None else (
        student_input.in_channels)
    if len(mean) != channels or len(std) != channels:
        raise ValueError(f'{given}: give one number for each of the '
                         f'{channels} channels.')
    if not all(map(math.isfinite, [*mean, *std])) or min(std) <= 0:
        raise ValueError(f'{given} must be finite, std above 0.')
    if max(std) < 1 and max(map(abs, mean)) <= 1:
        raise ValueError(
            f'{given} look like those of pixel values from 0 to 1. As in '
            "mmpretrain's data_preprocessor, give them for values from 0 to "
            '255: multiply by 255.')
