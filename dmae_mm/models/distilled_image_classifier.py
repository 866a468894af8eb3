from typing import Any, Dict, List, Optional, Sequence, Tuple, Type, Union

import torch
import torch.nn as nn
from mmpretrain.models import ClsHead, ImageClassifier
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample

from dmae_mm.options import reject_unknown_options

from .checks import check_backbone, check_pairs, check_preprocessor
from .distillation import Block, build_part
from .distillations import Distillations
from .mmpretrain_vits import TOKEN_BACKBONES, check_arch
from .student import Student
from .student_input import StudentInput
from .teachers import ClassifierTeacher, Teacher
from .teachers.classifier_teacher import has_single_logits
from .tokens import OutputRecorder


@MODELS.register_module()
@reject_unknown_options
class DistilledImageClassifier(ImageClassifier):
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
        distill_neck (dict, optional): As in :class:`DMAE`.
        distill_loss (dict, optional): As in :class:`DMAE`.
        target (dict, optional): As in :class:`DMAE`.
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
                 distill_neck: Optional[dict] = None,
                 distill_loss: Optional[dict] = None,
                 target: Optional[dict] = None,
                 pretrained: Optional[str] = None,
                 train_cfg: Optional[dict] = None,
                 data_preprocessor: Optional[Union[dict, nn.Module]] = None,
                 init_cfg: Optional[Union[dict, List[dict]]] = None) -> None:
        _check_distillation(teacher, logit_loss, aligned_layers)
        if isinstance(teacher, dict):
            _check_logits(
                teacher.get('type'), _gives_logits(teacher.get('type')),
                logit_loss)
        check_arch('backbone', backbone)
        super().__init__(
            backbone=backbone,
            neck=neck,
            head=head,
            pretrained=pretrained,
            train_cfg=train_cfg,
            data_preprocessor=data_preprocessor,
            init_cfg=init_cfg)
        check_preprocessor(self.data_preprocessor, self.backbone)
        self.logit_loss = None
        if teacher is not None and self.head is None:
            raise ValueError(
                'head=None, but a DistilledImageClassifier learns from labels '
                "as well. Give a head, for example type='LinearClsHead'.")
        if aligned_layers:
            check_backbone(self.backbone, TOKEN_BACKBONES, exactly=True)
            student = Student.of_vit(self.backbone, self.data_preprocessor)
        else:
            student = Student(
                StudentInput.of(self.backbone, self.data_preprocessor))
        self.distillations = Distillations(
            student, {} if teacher is None else {
                '':
                dict(
                    teacher=teacher,
                    aligned_layers=aligned_layers,
                    distill_neck=distill_neck,
                    distill_loss=distill_loss,
                    target=target)
            })
        self.distillations.register_in(self)
        if logit_loss is not None:
            _check_student_head(self.head)
            _check_num_classes(self.head, self.teacher)
            self.head_output = OutputRecorder([self.head])
            self.logit_loss = build_part('logit_loss', logit_loss)

    @property
    def teacher(self) -> Optional[Teacher]:
        """The teacher, if there is one."""
        return self.teachers.get('')

    @property
    def teachers(self) -> Dict[str, Teacher]:
        """The same, by the name ''."""
        return self.distillations.teachers

    def init_weights(self) -> None:
        """Initialise the student and read the teacher's checkpoint."""
        self.distillations.init_weights(next(self.parameters()).device)
        super().init_weights()

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

        features, student_features = self.distillations.record(
            self.extract_feat, inputs)
        if self.logit_loss is None:
            losses = self.head_loss(features, data_samples)
            losses.update(self.distillations.losses(inputs, student_features))
            return losses

        losses, (logits, ) = self.head_output.record(
            self.head_loss, features, data_samples)
        teacher_logits, teacher_features = self.teacher(inputs)
        losses['loss_logits'] = self.logit_loss(logits, teacher_logits)
        distillation, = self.distillations
        losses.update(
            distillation.align(student_features[0], teacher_features))
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


def _check_distillation(teacher: Optional[dict], logit_loss: Optional[dict],
                       aligned_layers: Sequence) -> None:
    """Refuse a classifier's losses without a teacher, and the reverse."""
    check_pairs(aligned_layers)
    if teacher is None and (logit_loss is not None or len(aligned_layers)):
        raise ValueError(
            f'logit_loss={logit_loss!r}, aligned_layers={aligned_layers!r} '
            'but teacher=None. Give a teacher, or set logit_loss=None and '
            'aligned_layers=[] for the classifier without distillation.')
    if teacher is not None and logit_loss is None and not len(aligned_layers):
        raise ValueError(
            'logit_loss=None and aligned_layers is empty, so the teacher '
            'would teach nothing. Give '
            "logit_loss=dict(type='LogitDistillationLoss'), or "
            'aligned_layers, for example [(0.75, 0.75)], or both; or set '
            'teacher=None for the classifier without distillation.')


def _check_student_head(head: Optional[nn.Module]) -> None:
    """Refuse a head whose logits are not what its loss is computed from."""
    if not has_single_logits(head) or type(head).loss is not ClsHead.loss:
        raise ValueError(
            f'head: a {type(head).__name__} does not compute its loss from '
            'one tensor of logits, so there is none to distil into. Choose '
            'LinearClsHead, VisionTransformerClsHead or another head that '
            "has ClsHead's loss, or set logit_loss=None.")


def _check_num_classes(head: nn.Module, teacher: nn.Module) -> None:
    """Refuse a teacher of other classes than the student's."""
    ours = getattr(head, 'num_classes', None)
    if None not in (ours, teacher.num_classes) and (ours !=
                                                    teacher.num_classes):
        raise ValueError(
            f'head: num_classes={ours}, but the teacher knows '
            f'{teacher.num_classes} classes (teacher.model.head.num_classes). '
            'Its logits can only teach the same classes: give a teacher that '
            'was fine-tuned on the same data, or align features alone '
            "(aligned_layers, with type='MMPretrainTeacher').")


def _gives_logits(kind: Optional[Union[str, Type]]) -> bool:
    """Whether a teacher of this type is a :class:`ClassifierTeacher`."""
    cls = MODELS.get(kind) if isinstance(kind, str) else kind
    if cls is None:
        raise ValueError(f'teacher: type={kind!r} does not exist. Choose '
                         'ClassifierTeacher, MMPretrainTeacher or '
                         'TimmTeacher.')
    return isinstance(cls, type) and issubclass(cls, ClassifierTeacher)


def _check_logits(teacher_type: Any, gives_logits: bool,
                 logit_loss: Optional[dict]) -> None:
    """Refuse a teacher without logits, and one whose logits are not used."""
    name = getattr(teacher_type, '__name__', teacher_type)
    if logit_loss is not None and not gives_logits:
        raise ValueError(
            f'logit_loss={logit_loss!r}, but a {name} has no logits. Give '
            "teacher=dict(type='ClassifierTeacher', model=..., "
            'checkpoint=...), a whole fine-tuned classifier, or set '
            'logit_loss=None.')
    if logit_loss is None and gives_logits:
        raise ValueError(
            f'teacher: a {name} computes logits, but logit_loss=None. For '
            "features alone give teacher=dict(type='MMPretrainTeacher', "
            'backbone=..., checkpoint=...) with the same backbone and '
            'checkpoint, which does not run the blocks that are not needed. '
            "Or give logit_loss=dict(type='LogitDistillationLoss').")
