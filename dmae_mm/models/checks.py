"""Do the parts of a model fit together? Asked once, when it is built."""
from collections import Counter
from typing import Any, Optional, Sequence, Tuple, Type

import torch.nn as nn
from mmpretrain.models import ClsHead
from mmpretrain.models.necks import MAEPretrainDecoder
from mmpretrain.registry import MODELS

from .necks import CrossAttentionDecoder
from .students import Student


def check_pairs(aligned_layers: Sequence) -> None:
    """Refuse ``aligned_layers`` that are no pairs."""
    if not isinstance(aligned_layers, (list, tuple)) or not all(
            isinstance(pair, (list, tuple)) and len(pair) == 2
            for pair in aligned_layers):
        raise ValueError(
            f'aligned_layers={aligned_layers!r} is not a list of pairs. Give '
            'one (student block, teacher block) for each pair, for example '
            '[(8, 17)] or [(0.75, 0.75)].')


def check_teacher(aligned_layers: Sequence, teacher: Optional[dict]) -> None:
    """Refuse pairs without a teacher of DMAE, and the reverse."""
    check_pairs(aligned_layers)
    if teacher is None and len(aligned_layers) > 0:
        raise ValueError(
            f'aligned_layers={aligned_layers!r} but teacher=None. Give a '
            'teacher, or set aligned_layers=[] for plain MAE.')
    if teacher is not None and len(aligned_layers) == 0:
        raise ValueError(
            'aligned_layers is empty, so the teacher would teach nothing. '
            'Give at least one (student block, teacher block), for example '
            '[(0.75, 0.75)], or set teacher=None for plain MAE.')


def check_backbone(backbone: nn.Module,
                   supported: Tuple[Type, ...],
                   exactly: bool = False) -> None:
    """Refuse a student whose blocks cannot be aligned.

    Args:
        backbone (nn.Module): The student.
        supported (tuple[type]): What it may be.
        exactly (bool): Whether subclasses are refused. Defaults to False.
    """
    if not (type(backbone) in supported if exactly else isinstance(
            backbone, supported)):
        names = [cls.__name__ for cls in supported]
        raise ValueError(
            f'backbone: type={type(backbone).__name__!r} is not supported '
            'as a student whose features are aligned. Choose '
            f'{", ".join(names[:-1])} or {names[-1]}.')


def check_no_duplicates(aligned_layers: Sequence,
                        loss_names: Sequence[str]) -> None:
    """Refuse a pair of blocks that is named twice."""
    twice = [name for name, n in Counter(loss_names).items() if n > 1]
    if twice:
        raise ValueError(
            f'aligned_layers={aligned_layers!r} names a pair of blocks more '
            f'than once ({", ".join(twice)}). Name each pair once; '
            'distill_loss.loss_weight weighs it.')


def check_not_frozen(blocks: Sequence[nn.Module],
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


def check_student(student: Student, embed_dims: int, neck: nn.Module,
                  head: nn.Module) -> None:
    """Refuse a backbone, decoder and head of different sizes."""
    rows, columns = student.input.patch_grid
    if rows != columns:
        raise ValueError(
            f'backbone: img_size={student.input.img_size} gives {rows} x '
            f'{columns} patches of {student.patch_size} px, but the position '
            'embeddings of MAE are made for squares. Give a square img_size.')
    if not isinstance(neck, MAEPretrainDecoder):
        return
    for option, value, wanted, origin in (
        ('neck: embed_dim', neck.decoder_embed.in_features, embed_dims,
         'the embed_dims of its arch'),
        ('neck: num_patches', neck.num_patches, student.num_patches,
         '(img_size / patch_size)^2'),
        ('neck: values of a patch (patch_size^2 * in_chans)',
         neck.decoder_pred.out_features,
         student.patch_size**2 * student.input.in_channels,
         'patch_size^2 * in_channels'),
        ('head: patch_size', getattr(head, 'patch_size', student.patch_size),
         student.patch_size, 'its patch_size'),
    ):
        if value != wanted:
            raise ValueError(f'{option} is {value}, but the backbone (the '
                             f'student) needs {wanted}: {origin}.')


def check_mask_ratio(backbone: nn.Module, has_teacher: bool) -> None:
    """Refuse a mask that leaves no patch visible or nothing to learn."""
    ratio, num_patches = backbone.mask_ratio, backbone.num_patches
    if isinstance(ratio, bool) or not isinstance(ratio, (int, float)) or not (
            0 <= ratio < 1):
        raise ValueError(f'backbone: mask_ratio={ratio!r} is not a number '
                         'from 0 up to, but not including, 1.')
    num_visible = int(num_patches * (1 - ratio))  # MAE's own rule
    if num_visible == 0:
        raise ValueError(
            f'backbone: mask_ratio={ratio} leaves none of the {num_patches} '
            f'patches visible. It must be at most {1 - 1 / num_patches:.4f} '
            'for this image and patch size.')
    if num_visible == num_patches and not has_teacher:
        raise ValueError(
            f'backbone: mask_ratio={ratio} masks nothing and there is no '
            'teacher, so there is nothing to learn. Mask at least one patch.')


def check_predict_ratio(neck: nn.Module, backbone: nn.Module) -> None:
    """Refuse a light decoder that would predict more than is masked."""
    if not isinstance(neck, CrossAttentionDecoder):
        return
    num_patches = backbone.num_patches
    num_masked = num_patches - int(num_patches * (1 - backbone.mask_ratio))
    if neck.num_predicted > num_masked:
        raise ValueError(
            f'neck: predict_ratio={neck.predict_ratio} predicts '
            f'{neck.num_predicted} patches, but backbone: '
            f'mask_ratio={backbone.mask_ratio} masks only {num_masked} of '
            f'{num_patches}. It must be at most {num_masked / num_patches}.')


def build_part(section: str, cfg: dict, **filled_in) -> nn.Module:
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


def check_distillation(teacher: Optional[dict], logit_loss: Optional[dict],
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


def check_student_head(head: Optional[nn.Module]) -> None:
    """Refuse a head whose logits are not what its loss is computed from."""
    if not has_single_logits(head) or type(head).loss is not ClsHead.loss:
        raise ValueError(
            f'head: a {type(head).__name__} does not compute its loss from '
            'one tensor of logits, so there is none to distil into. Choose '
            'LinearClsHead, VisionTransformerClsHead or another head that '
            "has ClsHead's loss, or set logit_loss=None.")


def has_single_logits(head: Optional[nn.Module]) -> bool:
    """Whether a head returns one tensor, of which softmax is taken."""
    return isinstance(
        head, ClsHead) and type(head)._get_loss is ClsHead._get_loss


def check_num_classes(head: nn.Module, teacher: nn.Module) -> None:
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


def check_logits(teacher_type: Any, gives_logits: bool,
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
