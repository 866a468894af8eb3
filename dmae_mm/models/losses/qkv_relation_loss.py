from typing import Optional

import torch
from mmpretrain.registry import MODELS

from dmae_mm.options import reject_unknown_options

from .feature_loss import (FeatureLoss, at_least_float32, check_same_tokens,
                           without_autocast)
from .relation_divergence import relation_divergence


@MODELS.register_module()
@reject_unknown_options
class QKVRelationLoss(FeatureLoss):
    """Relations of queries with keys, and of values, as the teacher has them.

    `TinyMIM <https://arxiv.org/abs/2301.01296>`_, section 3: of each head,
    with its own d channels on each side,

    .. math:: R_{QK} = \\mathrm{softmax}(q k^T / \\sqrt{d}) \\qquad
              R_{VV} = \\mathrm{softmax}(v v^T / \\sqrt{d}) \\qquad
              L = w \\sum_{R} \\mathrm{mean} \\,
              \\mathrm{KL}(R^{teacher} \\,\\|\\, R^{student})

    over images, heads and rows. It compares the outputs of the ``qkv`` layers
    of the aligned blocks; what follows in a student's last block learns
    nothing from it. No projectors: the widths may differ. In the paper
    teacher and student see all patches, and the student's last block learns
    from block 18 of 24 of a ViT-L, or the last of a ViT-B. At least in
    float32, under autocast too.

    Args:
        loss_weight (float): The factor :math:`w`, at least 0. Defaults to
            1.0.
        num_heads (int, optional): Heads into which q, k and v of both sides
            are split here; it must divide both widths. Defaults to None: as
            many as the teacher's blocks have, as in the paper, which gives
            the student's last block as many.

    Raises:
        ValueError: If an option has an illegal value.
    """

    tap = 'qkv'
    projects = False

    def __init__(self,
                 loss_weight: float = 1.0,
                 num_heads: Optional[int] = None) -> None:
        super().__init__(loss_weight)
        if num_heads is not None and (isinstance(num_heads, bool)
                                      or not isinstance(num_heads, int)
                                      or num_heads < 1):
            raise ValueError(f'distill_loss: num_heads={num_heads!r} is not '
                             'an int of at least 1.')
        self.num_heads = num_heads

    def match_heads(self, student_dims: int, teacher_dims: int,
                    teacher_num_heads: int) -> None:
        """Take over the teacher's heads, unless ``num_heads`` is given.

        Args:
            student_dims (int): Width of the student.
            teacher_dims (int): Width of the teacher.
            teacher_num_heads (int): Heads of its blocks.

        Raises:
            ValueError: If the heads do not divide both widths.
        """
        if self.num_heads is None:
            self.num_heads = teacher_num_heads
        self._check_widths(student_dims, teacher_dims)

    def per_image(self, student: torch.Tensor,
                  teacher: torch.Tensor) -> torch.Tensor:
        """The loss of each image.

        Args:
            student (torch.Tensor): Output of the student's ``qkv`` layer,
                (B, N, 3 C_student): q, k and v, each of all its heads.
            teacher (torch.Tensor): Of the teacher's, (B, N, 3 C_teacher), no
                gradient.

        Returns:
            torch.Tensor: (B,), at least float32.

        Raises:
            ValueError: If the numbers of images or tokens differ, or the
                heads do not divide both widths.
        """
        check_same_tokens(student, teacher)
        self._check_widths(student.shape[-1] / 3, teacher.shape[-1] / 3)
        with without_autocast(student):
            (q, k, v), (q_teacher, k_teacher, v_teacher) = (
                side.unflatten(-1, (3, self.num_heads, -1)).permute(
                    2, 0, 3, 1, 4)  # three times (B, heads, N, d)
                for side in at_least_float32(student, teacher))
            return self.loss_weight * (
                relation_divergence(
                    _relation(q, k), _relation(q_teacher, k_teacher)) +
                relation_divergence(
                    _relation(v, v), _relation(v_teacher, v_teacher)))

    def _check_widths(self, student_dims: float, teacher_dims: float) -> None:
        if self.num_heads is None:
            raise ValueError(
                'distill_loss: num_heads=None: how many heads the teacher '
                'has is not known here. Give num_heads.')
        if student_dims % self.num_heads or teacher_dims % self.num_heads:
            raise ValueError(
                f'distill_loss: num_heads={self.num_heads} does not divide '
                f'the width of the student, {student_dims:g}, and that of '
                f'the teacher, {teacher_dims:g}. Give a num_heads that '
                'divides both.')

    def extra_repr(self) -> str:
        return f'loss_weight={self.loss_weight}, num_heads={self.num_heads}'


def _relation(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Scaled products of the tokens of each head, (B, heads, N, N)."""
    return a @ b.transpose(-2, -1) / a.shape[-1]**0.5
