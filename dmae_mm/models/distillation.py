from collections import Counter
from typing import Any, Dict, Optional, Sequence, Tuple, Union

import torch
import torch.nn as nn
from mmpretrain.registry import MODELS

from .mmpretrain_vits import prefix_tokens
from .student_input import StudentInput
from .teachers import Teacher
from .tokens import BlockRecorder, resolve_block

Block = Union[int, float]


class Distillation:
    """A frozen teacher, the blocks that are aligned with its own, and how.

    A model owns one and calls it with what its student computed::

        output, features = self.distillation.student_recorder.record(
            self.backbone, images)
        losses.update(self.distillation.losses(images, ids_keep, features))

    It is no ``nn.Module``, so that the teacher is absent from the model's
    parameters, state dict, DDP buckets and optimizers. The model registers
    what learns, ``neck``, as its own submodule ``distill_neck``, and ``loss``
    as ``distill_loss``. A deep copy, such as an EMA's, shares the teacher.

    Args:
        student (nn.Module): The student's backbone.
        student_blocks (Sequence[nn.Module]): Its blocks, each of which
            returns (B, P + K, C_student). Not used without aligned pairs.
        student_input (StudentInput): Its images.
        teacher (dict): Config of the teacher.
        aligned_layers (Sequence[tuple]): Pairs of (student block, teacher
            block): 0-based ints, negative from the end, or depth fractions;
            perhaps none.
        distill_neck (dict): Config of the projectors.
        distill_loss (dict): Config of the loss of features.

    Attributes:
        teacher (Teacher): The teacher.
        student_recorder (BlockRecorder): The student's aligned blocks.
        loss_names (list[str]): Name of each aligned pair's loss.
        neck (nn.Module, optional): The projectors; None without pairs.
        loss (nn.Module, optional): Compares features; likewise.

    Raises:
        ValueError: If the parts do not fit together; the message names the
            option, its value and the legal values.
    """

    def __init__(self, student: nn.Module, student_blocks: Sequence[nn.Module],
                 student_input: StudentInput, teacher: dict,
                 aligned_layers: Sequence[Tuple[Block, Block]],
                 distill_neck: dict, distill_loss: dict) -> None:
        ours = [
            resolve_block(block, len(student_blocks), 'student')
            for block, _ in aligned_layers
        ]
        self.student_recorder = BlockRecorder(student_blocks, ours)
        self.teacher: Teacher = build_part(
            'teacher',
            teacher,
            aligned_blocks=[block for _, block in aligned_layers],
            student_input=student_input)
        self.loss_names = [
            f'loss_align_s{s}_t{t}'
            for s, t in zip(ours, self.teacher.aligned_blocks)
        ]
        _check_no_duplicates(aligned_layers, self.loss_names)
        _check_not_frozen(student_blocks, ours)
        self.student_prefix, self.student_has_cls = prefix_tokens(student)
        self.neck: Optional[nn.Module] = None
        self.loss: Optional[nn.Module] = None
        if not aligned_layers:
            return
        # Leaves the random state as it was, so that the student starts from
        # the same weights as in the control without projectors.
        with torch.random.fork_rng(devices=[]):
            self.neck = build_part(
                'distill_neck',
                distill_neck,
                student_dims=student.embed_dims,
                teacher_dims=self.teacher.embed_dims,
                num_pairs=len(aligned_layers))
        self.loss = build_part('distill_loss', distill_loss)

    def init_weights(self, device: torch.device) -> None:
        """Read the teacher's checkpoint, and move the teacher to the student.

        It would follow its images, but inside a compiled step that is slow.
        """
        self.teacher.init_weights()
        self.teacher.to(device)

    def losses(
            self, images: torch.Tensor, ids_keep: Optional[torch.Tensor],
            student_features: Sequence[torch.Tensor]
    ) -> Dict[str, torch.Tensor]:
        """Run the teacher and compare the student's features with its own.

        Args:
            images (torch.Tensor): Normalised images, (B, C, H, W).
            ids_keep (torch.Tensor, optional): Indices of the visible patches,
                (B, K). None: all.
            student_features (Sequence[torch.Tensor]): A pair's student
                tokens, (B, P_student + K, C_student).

        Returns:
            dict[str, torch.Tensor]: One loss a pair.
        """
        return self.align(student_features, self.teacher(images, ids_keep))

    def align(
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
        if not self.loss_names:
            return {}
        if self.neck.training and torch.is_grad_enabled() and not all(
                feature.requires_grad for feature in student_features):
            raise RuntimeError(
                'The student features carry no gradient. With '
                'activation_checkpointing, name single blocks '
                "('backbone.layers.0', ...), not the backbone.")
        both_cls = self.student_has_cls and self.teacher.has_cls_token
        projected = self.neck([
            _alignable_tokens(feature, self.student_prefix, both_cls)
            for feature in student_features
        ])
        return {
            name: self.loss(
                student,
                _alignable_tokens(teacher, self.teacher.num_prefix_tokens,
                                  both_cls))
            for name, student, teacher in zip(self.loss_names, projected,
                                              teacher_features)
        }


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


def build_part(section: str, cfg: dict, **filled_in: Any) -> nn.Module:
    """Build a part from its section of the config and from other parts.

    Args:
        section (str): Name of the section, for errors.
        cfg (dict): The section.
        **filled_in: Options that follow from other parts.

    Returns:
        nn.Module: The part.

    Raises:
        ValueError: If the section is no dict with a type, or has an option
            that is filled in here, which would be overwritten.
    """
    if not isinstance(cfg, dict) or 'type' not in cfg:
        raise ValueError(f'{section}={cfg!r} is not a dict with a "type".')
    typed = [f'{name}={cfg[name]!r}' for name in filled_in if name in cfg]
    if typed:
        raise ValueError(
            f'{section}: {", ".join(typed)} must not be given: it follows '
            'from backbone, teacher and aligned_layers. Remove it.')
    return MODELS.build(dict(cfg, **filled_in))


def _check_no_duplicates(aligned_layers: Sequence,
                         loss_names: Sequence[str]) -> None:
    """Refuse a pair of blocks that is named twice."""
    twice = [name for name, n in Counter(loss_names).items() if n > 1]
    if twice:
        raise ValueError(
            f'aligned_layers={aligned_layers!r} names a pair of blocks more '
            f'than once ({", ".join(twice)}). Name each pair once; '
            'distill_loss.loss_weight weighs it.')


def _check_not_frozen(blocks: Sequence[nn.Module],
                      aligned: Sequence[int]) -> None:
    """Refuse to align blocks of the student that do not learn."""
    frozen = [
        index for index in aligned
        if not any(p.requires_grad for p in blocks[index].parameters())
    ]
    if frozen:
        raise ValueError(
            f'aligned_layers: student blocks {frozen} are frozen '
            '(backbone.frozen_stages), so nothing can be taught to them. '
            'Align later blocks, or freeze fewer.')
