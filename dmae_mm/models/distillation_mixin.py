import weakref
from typing import Callable, Dict, Optional, Sequence, Tuple, Union

import torch
import torch.nn as nn

from .block_features import BlockFeatures, resolve_block
from .checks import build_part, check_no_duplicates, check_not_frozen
from .students import StudentInput
from .teachers import FrozenTeacher

Block = Union[int, float]


class DistillationMixin:
    """What a model with a frozen teacher shares with others of its kind.

    It stands in front of a model class of mmpretrain that has a ``backbone``.
    The teacher is a plain attribute instead of a submodule. Thus it is absent
    from parameters(), state_dict(), DDP and init_weights(); ``_apply`` takes
    it along to another device or dtype, and it defines for itself how it is
    copied. Copies of the model, such as an EMA's, share the teacher but do
    not move it.

    Attributes:
        teacher (FrozenTeacher, optional): The teacher.
        student_blocks (BlockFeatures): The student's aligned blocks.
        loss_names (list[str]): Name of each aligned pair's loss.
        distill_neck (nn.Module): Projectors; only with aligned pairs, as the
            following.
        distill_loss (nn.Module): Compares features.
    """

    teacher: Optional[FrozenTeacher] = None

    def build_distillation(self, blocks: Sequence[nn.Module],
                           student_input: StudentInput, teacher: dict,
                           aligned_layers: Sequence[Tuple[Block, Block]],
                           distill_neck: dict, distill_loss: dict) -> None:
        """Build the teacher and what aligns features with its own.

        Args:
            blocks (Sequence[nn.Module]): The student's blocks. Not used
                without aligned pairs.
            student_input (StudentInput): The student's images.
            teacher (dict): Config of the teacher.
            aligned_layers (Sequence[tuple]): Pairs of (student block, teacher
                block); perhaps none.
            distill_neck (dict): Config of the projectors.
            distill_loss (dict): Config of the loss of features.

        Raises:
            ValueError: If the parts do not fit together.
        """
        student_blocks = [
            resolve_block(block, len(blocks), 'student')
            for block, _ in aligned_layers
        ]
        self.student_blocks = BlockFeatures(blocks, student_blocks)
        object.__setattr__(
            self, 'teacher',
            build_part(
                'teacher',
                teacher,
                aligned_blocks=[block for _, block in aligned_layers],
                student_input=student_input))
        self.teacher.owner = weakref.ref(self)
        self.loss_names = [
            f'loss_align_s{ours}_t{its}' for ours, its in zip(
                student_blocks, self.teacher.aligned_blocks)
        ]
        check_no_duplicates(aligned_layers, self.loss_names)
        check_not_frozen(blocks, student_blocks)
        if not aligned_layers:
            return
        # Leaves the random state as it was, so that the student starts from
        # the same weights as in the control without projectors.
        with torch.random.fork_rng(devices=[]):
            self.distill_neck = build_part(
                'distill_neck',
                distill_neck,
                student_dims=self.backbone.embed_dims,
                teacher_dims=self.teacher.embed_dims,
                num_pairs=len(aligned_layers))
        self.distill_loss = build_part('distill_loss', distill_loss)

    def alignment_losses(
        self, student_features: Sequence[torch.Tensor],
        teacher_features: Sequence[torch.Tensor]
    ) -> Dict[str, torch.Tensor]:
        """Distance of each aligned pair on the tokens that both sides have.

        Args:
            student_features (Sequence[torch.Tensor]): A pair's student
                tokens, (B, P_student + K, C_student).
            teacher_features (Sequence[torch.Tensor]): A pair's teacher
                tokens, (B, P_teacher + K, C_teacher).

        Returns:
            dict[str, torch.Tensor]: One loss a pair.

        Raises:
            RuntimeError: If the student features carry no gradient, as when
                activation checkpointing encloses several blocks together.
        """
        if self.training and torch.is_grad_enabled() and not all(
                feature.requires_grad for feature in student_features):
            raise RuntimeError(
                'The student features carry no gradient. With '
                'activation_checkpointing, name single blocks '
                "('backbone.layers.0', ...), not the backbone.")
        student_prefix = self.backbone.num_extra_tokens
        teacher_prefix = self.teacher.num_prefix_tokens
        both_cls = student_prefix > 0 and self.teacher.has_cls_token
        projected = self.distill_neck([
            _alignable_tokens(feature, student_prefix, both_cls)
            for feature in student_features
        ])
        return {
            name: self.distill_loss(
                student, _alignable_tokens(teacher, teacher_prefix, both_cls))
            for name, student, teacher in zip(self.loss_names, projected,
                                              teacher_features)
        }

    def init_weights(self) -> None:
        """Initialise the student and read the teacher's checkpoint."""
        if self.teacher is not None:
            self.teacher.init_weights()
        super().init_weights()

    def _apply(self, fn: Callable, recurse: bool = True) -> nn.Module:
        if self.teacher is not None and self.teacher.is_moved_by(self):
            self.teacher._apply(fn, recurse)
        return super()._apply(fn, recurse)


def _alignable_tokens(feature: torch.Tensor, num_prefix: int,
                      keep_cls: bool) -> torch.Tensor:
    """Patch tokens, with CLS in front if both sides have one.

    Args:
        feature (torch.Tensor): Tokens of one side, (B, P + K, C).
        num_prefix (int): P, of which the first is CLS if there is one.
        keep_cls (bool): Whether both sides have CLS.

    Returns:
        torch.Tensor: (B, 1 + K, C) or (B, K, C); a view unless registers
        have to be cut out.
    """
    if num_prefix == int(keep_cls):
        return feature
    patches = feature[:, num_prefix:]
    return torch.cat([feature[:, :1], patches], 1) if keep_cls else patches
