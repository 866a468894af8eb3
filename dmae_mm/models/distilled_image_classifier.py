from typing import Dict, List, Optional, Sequence, Tuple, Type, Union

import torch
import torch.nn as nn
from mmpretrain.models import ImageClassifier
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample

from dmae_mm.options import reject_unknown_options

from .backbones import TOKEN_BACKBONES
from .block_features import BlockFeatures
from .checks import (build_part, check_backbone, check_distillation,
                     check_logits, check_num_classes, check_student_head)
from .distillation_mixin import Block, DistillationMixin
from .students import Student, StudentInput
from .teachers import ClassifierTeacher


@MODELS.register_module()
@reject_unknown_options
class DistilledImageClassifier(DistillationMixin, ImageClassifier):
    """Image classifier that learns from labels and from a frozen teacher.

    Any classifier of mmpretrain becomes one by its ``type`` and by what the
    teacher shall teach: its logits (``logit_loss``, with a
    :class:`ClassifierTeacher`), the outputs of its blocks
    (``aligned_layers``, as in :class:`DMAE` but of whole images), or both,
    which one pass of a :class:`ClassifierTeacher` gives. The teacher sees the
    images of the student, mixed ones too.

    To ``loss``, that of the head, whose weight is ``head.loss.loss_weight``,
    come ``loss_logits`` and for each aligned pair ``loss_align_s{student
    block}_t{teacher block}``. The sum is trained; the log shows its parts.
    Prediction does not run the teacher. With ``teacher=None`` and nothing to
    distil this is an ``ImageClassifier``, the control of an experiment.

    Args:
        backbone (dict): The student. For ``aligned_layers`` it is a plain
            vision transformer or a ``HiViT``.
        neck (dict, optional): As in mmpretrain. Defaults to None.
        head (dict, optional): As in mmpretrain. For ``logit_loss``, one that
            has the loss of ``ClsHead``. Defaults to None.
        teacher (dict, optional): The teacher: a :class:`ClassifierTeacher`;
            for features alone a :class:`MMPretrainTeacher` or
            :class:`TimmTeacher`, which run no block after the last aligned
            one. Defaults to None.
        logit_loss (dict, optional): A :class:`LogitDistillationLoss`.
            Defaults to None.
        aligned_layers (Sequence[tuple]): As in :class:`DMAE`. Defaults to ().
        distill_neck (dict): As in :class:`DMAE`.
        distill_loss (dict): As in :class:`DMAE`.
        pretrained (str, optional): As in mmpretrain.
        train_cfg (dict, optional): As in mmpretrain.
        data_preprocessor (dict, optional): As in mmpretrain.
        init_cfg (dict | list[dict], optional): As in mmpretrain. It reaches
            neither the projectors nor the teacher.

    Raises:
        ValueError: If the parts do not fit together; the message names the
            option, its value and the legal values.
    """

    def __init__(self,
                 backbone: dict,
                 neck: Optional[dict] = None,
                 head: Optional[dict] = None,
                 teacher: Optional[dict] = None,
                 logit_loss: Optional[dict] = None,
                 aligned_layers: Sequence[Tuple[Block, Block]] = (),
                 distill_neck: dict = dict(type='FeatureProjectionNeck'),
                 distill_loss: dict = dict(type='FeatureAlignmentLoss'),
                 pretrained: Optional[str] = None,
                 train_cfg: Optional[dict] = None,
                 data_preprocessor: Optional[Union[dict, nn.Module]] = None,
                 init_cfg: Optional[Union[dict, List[dict]]] = None) -> None:
        check_distillation(teacher, logit_loss, aligned_layers)
        if isinstance(teacher, dict):
            check_logits(
                teacher.get('type'), _gives_logits(teacher.get('type')),
                logit_loss)
        super().__init__(
            backbone=backbone,
            neck=neck,
            head=head,
            pretrained=pretrained,
            train_cfg=train_cfg,
            data_preprocessor=data_preprocessor,
            init_cfg=init_cfg)
        self.logit_loss = None
        if teacher is None:
            return

        if self.head is None:
            raise ValueError(
                'head=None, but a DistilledImageClassifier learns from labels '
                "as well. Give a head, for example type='LinearClsHead'.")
        if aligned_layers:
            check_backbone(self.backbone, TOKEN_BACKBONES, exactly=True)
            student = Student.of(self.backbone, self.data_preprocessor)
            blocks, images = student.blocks, student.input
        else:
            blocks = ()
            images = StudentInput.of(self.backbone, self.data_preprocessor)
        self.build_distillation(blocks, images, teacher, aligned_layers,
                                distill_neck, distill_loss)
        if logit_loss is not None:
            check_student_head(self.head)
            check_num_classes(self.head, self.teacher)
            self.head_output = BlockFeatures([self.head], [0])
            self.logit_loss = build_part('logit_loss', logit_loss)

    def loss(self, inputs: torch.Tensor,
             data_samples: List[DataSample]) -> Dict[str, torch.Tensor]:
        """One training step's losses.

        Args:
            inputs (torch.Tensor): Normalised images, (B, 3, H, W).
            data_samples (list[DataSample]): Their labels.

        Returns:
            dict[str, torch.Tensor]: What the head returns, with its ``loss``
            as ``loss_cls``; ``loss_logits`` and ``loss_align_*``, as far as
            they are wanted.
        """
        if self.teacher is None:
            return super().loss(inputs, data_samples)

        features, student_blocks = self.student_blocks.record(
            self.extract_feat, inputs)
        if self.logit_loss is not None:
            losses, (logits, ) = self.head_output.record(
                self.head_loss, features, data_samples)
            teacher_logits, teacher_blocks = self.teacher(inputs)
            losses['loss_logits'] = self.logit_loss(logits, teacher_logits)
        else:
            losses = self.head_loss(features, data_samples)
            teacher_blocks = self.teacher(inputs, ids_keep=None)
        if self.loss_names:
            losses.update(
                self.alignment_losses(student_blocks, teacher_blocks))
        return losses

    def head_loss(self, features: Tuple[torch.Tensor, ...],
                  data_samples: List[DataSample]) -> Dict[str, torch.Tensor]:
        """What the head returns, with its ``loss`` as ``loss_cls``.

        MMEngine logs the sum of all losses as ``loss``, unless there is one
        of that name.
        """
        return {
            'loss_cls' if name == 'loss' else name: value
            for name, value in self.head.loss(features, data_samples).items()
        }


def _gives_logits(kind: Optional[Union[str, Type]]) -> bool:
    """Whether a teacher of this type is a :class:`ClassifierTeacher`."""
    cls = MODELS.get(kind) if isinstance(kind, str) else kind
    if cls is None:
        raise ValueError(f'teacher: type={kind!r} does not exist. Choose '
                         'ClassifierTeacher, MMPretrainTeacher or '
                         'TimmTeacher.')
    return isinstance(cls, type) and issubclass(cls, ClassifierTeacher)
