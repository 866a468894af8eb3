"""What a teacher takes from a checkpoint file, checked before it does."""
from typing import Dict, Sequence

import torch
from mmengine.logging import print_log

from dmae_mm.messages import first_few
from dmae_mm.weights import TensorFile
from dmae_mm.weights.misfits import misfits, unknown


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


def refuse_other_meaning(file: TensorFile, problems: Sequence[str],
                         option: str) -> None:
    """Refuse a file that fits by names and shapes alone.

    Args:
        file (TensorFile): The file.
        problems (Sequence[str]): As of :func:`other_heads` and
            :func:`other_grid`.
        option (str): Which option of the config says what the file holds.

    Raises:
        ValueError: If there are problems.
    """
    if problems:
        raise ValueError(
            f'The teacher checkpoint {file.source} does not fit the teacher: '
            f'{"; ".join(problems)}. Give in {option} the architecture and '
            'the img_size with which it was trained; for the student\'s '
            'grid, positions are resampled.')


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
