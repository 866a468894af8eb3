"""Do the parts of a model fit together? Asked once, when it is built."""
from typing import Optional, Sequence, Tuple, Type

import torch.nn as nn
from mmpretrain.models.necks import MAEPretrainDecoder

from .data_preprocessor import ChannelsDataPreprocessor
from .mmpretrain_vits import img_size, patch_grid, patch_size
from .necks import CrossAttentionDecoder
from .student_input import input_channels
from .students import MaskedTimmViT
from .teachers import ClassifierTeacher, Teacher


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


def check_sees_patches(teacher: Teacher) -> None:
    """Refuse a teacher that only sees whole images."""
    if isinstance(teacher, ClassifierTeacher):
        raise ValueError(
            f'teacher: a {type(teacher).__name__} has no features of visible '
            "patches. Give dict(type='MMPretrainTeacher', backbone=..., "
            'checkpoint=...), which reads the same checkpoint, or a '
            'TimmTeacher.')


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


def check_sizes(backbone: nn.Module, neck: nn.Module,
                head: nn.Module) -> None:
    """Refuse a backbone, decoder and head of different sizes.

    Without a decoder, a ViT of timm may have any grid of patches.
    """
    if neck is None and isinstance(backbone, MaskedTimmViT):
        return
    rows, columns = patch_grid(backbone)
    side = patch_size(backbone)[0]
    channels = input_channels(backbone)
    if rows != columns:
        raise ValueError(
            f'backbone: img_size={img_size(backbone)} gives {rows} x '
            f'{columns} patches of {side} px, but the position '
            'embeddings of MAE are made for squares. Give a square img_size.')
    if not isinstance(neck, MAEPretrainDecoder):
        return
    if len({*patch_size(backbone)}) > 1:
        raise ValueError(
            f'backbone: its patches are {patch_size(backbone)} px, but a '
            'decoder and its head predict square ones. Give one patch_size.')
    for option, value, wanted, origin in (
        ('neck: embed_dim', neck.decoder_embed.in_features,
         backbone.embed_dims, 'the embed_dims of its arch'),
        ('neck: num_patches', neck.num_patches, rows * columns,
         f'{rows} rows x {columns} columns of patches, by its img_size and '
         'patch_size'),
        ('neck: values of a patch (patch_size^2 * in_chans)',
         neck.decoder_pred.out_features,
         side**2 * channels,
         'patch_size^2 * in_channels'),
        ('head: in_channels', getattr(head, 'in_channels', channels),
         channels, 'its in_channels'),
        ('head: patch_size', getattr(head, 'patch_size', side), side,
         'its patch_size'),
    ):
        if value != wanted:
            raise ValueError(f'{option} is {value}, but the backbone (the '
                             f'student) needs {wanted}: {origin}.')


def check_preprocessor(data_preprocessor: nn.Module,
                       backbone: nn.Module) -> None:
    """Refuse a normalisation of other channels than the backbone's.

    A :class:`ChannelsDataPreprocessor` then refuses images of others.
    """
    channels = input_channels(backbone)
    for name in ('mean', 'std'):
        values = getattr(data_preprocessor, name, None)
        if values is not None and values.numel() not in (1, channels):
            raise ValueError(
                f'data_preprocessor: {name}={values.flatten().tolist()} has '
                f'{values.numel()} values, but the backbone (the student) '
                f'takes images of {channels} channels: give {channels} '
                'values, or one for all.')
    if channels != 3 and getattr(data_preprocessor, '_channel_conversion',
                                 False):
        raise ValueError(
            'data_preprocessor: to_rgb=True reverses three channels, but the '
            f'backbone (the student) takes images of {channels}: set '
            'to_rgb=False.')
    if isinstance(data_preprocessor, ChannelsDataPreprocessor):
        data_preprocessor.in_channels = channels


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


def check_learns(has_teacher: bool) -> None:
    """Refuse to train a student without a loss of pixels and a teacher."""
    if not has_teacher:
        raise ValueError(
            'head=None and teacher=None: the student neither reconstructs '
            'nor is taught, so there is nothing to learn. Give one of them.')


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
