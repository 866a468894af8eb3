import contextlib
from typing import ContextManager, Tuple

import torch
import torch.nn as nn

from dmae_mm.options import is_finite_number


class FeatureLoss(nn.Module):
    """What a ``distill_loss`` is: a distance of two features.

    A loss of your own need not derive from this class. It needs a
    ``forward(student, teacher)``, and where it lacks one of the following
    attributes it is treated as if it had the value that stands here.

    Args:
        loss_weight (float): Factor of the loss, at least 0. Defaults to 1.0.

    Attributes:
        tap (str): Which features of a block it compares: 'block', the
            outputs of whole blocks; 'qkv', the outputs of their ``qkv``
            layers, (B, N, 3 C); 'decoder', the outputs of whole blocks of
            the decoders.
        projects (bool): Whether the student's features pass through
            ``distill_neck`` first.
        tokens (str): 'shared', CLS where both sides have it and the patches;
            or 'patches', these alone.

    Raises:
        ValueError: If ``loss_weight`` is no finite number of at least 0.
    """

    tap = 'block'
    projects = True
    tokens = 'shared'

    def __init__(self, loss_weight: float = 1.0) -> None:
        super().__init__()
        if not is_finite_number(loss_weight) or loss_weight < 0:
            raise ValueError(f'distill_loss: loss_weight={loss_weight!r} is '
                             'not a finite number of at least 0.')
        self.loss_weight = loss_weight

    def forward(self, student: torch.Tensor,
                teacher: torch.Tensor) -> torch.Tensor:
        """Compare one pair of features.

        Args:
            student (torch.Tensor): Student's tokens, (B, N, C_student).
            teacher (torch.Tensor): Teacher's tokens, (B, N, C_teacher), no
                gradient.

        Returns:
            torch.Tensor: The weighted loss, a scalar of at least float32.
        """
        return self.per_image(student, teacher).mean()

    def per_image(self, student: torch.Tensor,
                  teacher: torch.Tensor) -> torch.Tensor:
        """The same of each image, (B,); the mean of that is the loss."""
        raise NotImplementedError


def at_least_float32(
        student: torch.Tensor,
        teacher: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor]:
    """Both sides in float32, or in float64 if the student is."""
    student = student.to(torch.promote_types(student.dtype, torch.float32))
    return student, teacher.to(student.dtype)


def without_autocast(tensor: torch.Tensor) -> ContextManager:
    """Full precision; the device of shapes alone has no autocast."""
    if tensor.is_meta:
        return contextlib.nullcontext()
    return torch.autocast(tensor.device.type, enabled=False)


def check_same_tokens(student: torch.Tensor, teacher: torch.Tensor) -> None:
    """Refuse sides that differ in more than their width."""
    if student.dim() != 3 or student.shape[:2] != teacher.shape[:-1]:
        raise ValueError(
            f"The student's features have shape {tuple(student.shape)}, the "
            f"teacher's {tuple(teacher.shape)}; both must be (images, tokens, "
            'width) with as many images and tokens.')
