"""Is a teacher what its config and its checkpoint say? Asked before training.
"""
import re
from typing import Dict, Optional, Sequence

import torch
from mmengine.logging import print_log

from dmae_mm.weights import TensorFile
from dmae_mm.messages import first_few
from dmae_mm.weights.misfits import misfits, unknown
from dmae_mm.models.students import StudentInput

DTYPES = dict(
    float32=torch.float32, bfloat16=torch.bfloat16, float16=torch.float16)


def check_options(checkpoint: Optional[str], sha256: Optional[str],
                  dtype: str, allow_random: bool) -> None:
    """Refuse options that contradict each other or have illegal values."""
    if checkpoint is None and allow_random is not True:
        raise ValueError(
            'teacher: checkpoint=None. Give the path or URL of the '
            "teacher's weights (a TimmTeacher also takes pretrained=True), or "
            'set allow_random=True if a random teacher is really meant.')
    if sha256 is not None and not (isinstance(sha256, str) and re.fullmatch(
            '[0-9a-fA-F]{8,64}', sha256)):
        raise ValueError(f'teacher: sha256={sha256!r} is not 8 to 64 '
                         'hexadecimal digits.')
    if sha256 is not None and checkpoint is None:
        raise ValueError(f'teacher: sha256={sha256!r} without a checkpoint '
                         'to compare it with. Remove it.')
    if dtype not in DTYPES:
        raise ValueError(f'teacher: dtype={dtype!r} does not exist. Choose '
                         f'one of {list(DTYPES)}.')


def check_images(student_input: Optional[StudentInput], in_channels: int,
                 patch_grid: Optional[Sequence[int]]) -> None:
    """Refuse a student with other images or another grid of patches."""
    if student_input is None:
        return
    if student_input.in_channels != in_channels:
        raise ValueError(
            f'teacher: it takes images of {in_channels} channels, the '
            f'student of {student_input.in_channels}. Give both the same '
            'number.')
    if None not in (patch_grid, student_input.patch_grid) and (
            student_input.patch_grid != tuple(patch_grid)):
        raise ValueError(
            'teacher: its patch grid is {} x {}, the student has {} x {}. '
            'Both must see the same patches.'.format(
                *patch_grid, *student_input.patch_grid))


def check_sha256(file: TensorFile, sha256: Optional[str]) -> None:
    """Refuse a file with another checksum than the config's."""
    if sha256 is not None and not file.sha256.startswith(sha256.lower()):
        raise ValueError(
            f'the SHA-256 of {file.source} is {file.sha256}, but the config '
            f'says sha256={sha256!r}. It is another file, or a damaged one: '
            'fetch it again, or correct sha256.')


def take_weights(file: TensorFile, layout: str,
                 weights: Dict[str, torch.Tensor],
                 needed: Dict[str, Sequence[int]], known: Sequence[str],
                 dtype: torch.dtype, owner: str,
                 option: str) -> Dict[str, torch.Tensor]:
    """Choose what a teacher needs, or refuse a file that does not fit it.

    Args:
        file (TensorFile): Where the weights are from.
        layout (str): Whose names it has, for the log.
        weights (dict[str, torch.Tensor]): Its tensors under the teacher's
            names.
        needed (dict[str, Sequence[int]]): Shapes of all tensors that the
            teacher needs, by name, the blocks of a truncated one as
            ``<blocks>.<index>.<rest>``.
        known (Sequence[str]): Names of all tensors of the whole network.
        dtype (torch.dtype): Type that the teacher keeps them in.
        owner (str): What the teacher is, for the error.
        option (str): Which option of the config says so, likewise.

    Returns:
        dict[str, torch.Tensor]: The needed tensors.

    Raises:
        ValueError: If a needed tensor is missing, has another shape or
            values that are not finite, or if the file has another number of
            blocks or tensors that such a network does not have.
    """
    problems = misfits(weights, needed, known, dtype)
    unused = sorted(weights.keys() - needed.keys())
    problems += unknown(unused, known)
    if problems:
        raise ValueError(
            f'The teacher checkpoint {file.source} does not fit the teacher, '
            f'{owner}: {first_few(problems, 5, "; ")}. Give a checkpoint of '
            'this architecture, or the architecture of this checkpoint in '
            f'{option}.')
    print_log(
        _describe_loaded(file, layout, len(needed), unused), logger='current')
    return {name: weights[name] for name in needed}


def _describe_loaded(file: TensorFile, layout: str, num_used: int,
                     unused: Sequence[str]) -> str:
    """One line for the log: what was taken, from where, and what was not."""
    averaged = ', the averaged weights (EMA)' * file.is_averaged
    key = '' if file.weights_key is None else f' under {file.weights_key!r}'
    behind = sorted({name.split('.')[0] for name in unused})
    beside = ', '.join([*behind, *file.ignored[:8]]) or 'nothing'
    return (f'Teacher: {num_used} tensors from {file.source}{key} ({layout}, '
            f'{file.num_bytes / 2**20:.1f} MiB, sha256 {file.sha256[:8]})'
            f'{averaged}. Not used: {len(unused)} tensors of the network and '
            f'{len(file.ignored)} other entries ({beside}).')
