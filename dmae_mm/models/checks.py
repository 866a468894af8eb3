"""Do the parts of a DMAE model fit together? Asked once, when it is built."""
from collections import Counter
from typing import Optional, Sequence

import torch.nn as nn
from mmpretrain.models.necks import MAEPretrainDecoder
from mmpretrain.registry import MODELS

from .students import Student


def check_pairs(aligned_layers: Sequence, teacher: Optional[dict]) -> None:
    """Refuse ``aligned_layers`` that are no pairs or lack a teacher."""
    if not isinstance(aligned_layers, (list, tuple)) or not all(
            isinstance(pair, (list, tuple)) and len(pair) == 2
            for pair in aligned_layers):
        raise ValueError(
            f'aligned_layers={aligned_layers!r} is not a list of pairs. Give '
            'one (student block, teacher block) for each pair, for example '
            '[(8, 17)] or [(0.75, 0.75)].')
    if teacher is None and len(aligned_layers) > 0:
        raise ValueError(
            f'aligned_layers={aligned_layers!r} but teacher=None. Give a '
            'teacher, or set aligned_layers=[] for plain MAE.')
    if teacher is not None and len(aligned_layers) == 0:
        raise ValueError(
            'aligned_layers is empty, so the teacher would teach nothing. '
            'Give at least one (student block, teacher block), for example '
            '[(0.75, 0.75)], or set teacher=None for plain MAE.')


def check_no_duplicates(aligned_layers: Sequence,
                        loss_names: Sequence[str]) -> None:
    """Refuse a pair of blocks that is named twice."""
    twice = [name for name, n in Counter(loss_names).items() if n > 1]
    if twice:
        raise ValueError(
            f'aligned_layers={aligned_layers!r} names a pair of blocks more '
            f'than once ({", ".join(twice)}). Name each pair once; '
            'distill_loss.loss_weight weighs it.')


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
    for option, value, wanted in (
        ('neck: embed_dim', neck.decoder_embed.in_features, embed_dims),
        ('neck: num_patches', neck.num_patches, student.num_patches),
        ('neck: values of a patch (patch_size^2 * in_chans)',
         neck.decoder_pred.out_features,
         student.patch_size**2 * student.input.in_channels),
        ('head: patch_size', getattr(head, 'patch_size', student.patch_size),
         student.patch_size),
    ):
        if value != wanted:
            raise ValueError(f'{option} is {value}, but the backbone (the '
                             f'student) needs {wanted}.')


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
