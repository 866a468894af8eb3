"""Does a checkpoint fit a network? Said in full, before anything is loaded.

PyTorch's own loading is no help here: backbones resize position embeddings
without a word, MMEngine skips what does not fit, and neither looks at values.
"""
import re
from typing import Dict, List, Optional, Sequence

import torch
import torch.nn as nn

from dmae_mm.messages import first_few


def misfits(weights: Dict[str, torch.Tensor],
            needed: Dict[str, Sequence[int]], known: Sequence[str],
            dtype: torch.dtype) -> List[str]:
    """What keeps weights from filling a part of a network.

    Args:
        weights (dict[str, torch.Tensor]): Tensors by their names in the
            network.
        needed (dict[str, Sequence[int]]): Shapes of what has to be filled, by
            name, the blocks as ``<blocks>.<index>.<rest>``.
        known (Sequence[str]): Names of all tensors of the whole network, for
            the number of its blocks.
        dtype (torch.dtype): Type in which values have to be finite.

    Returns:
        list[str]: The problems: each begins with the name of a tensor or with
        'the file'.
    """
    problems = []
    # Blocks that are not needed must be there nevertheless: without them,
    # negative indices and depth fractions name other blocks.
    num_given, num_known = num_blocks(weights), num_blocks(known)
    if num_given != num_known:
        problems.append(f'the file has {num_given} blocks instead of '
                        f'{num_known}')
    for name, shape in needed.items():
        problems += _misfit(name, weights.get(name), shape, dtype)
    return problems


def strict_misfits(weights: Dict[str, torch.Tensor],
                   network: nn.Module) -> List[str]:
    """What keeps weights from being exactly those of a network.

    As :func:`misfits`, and names that it does not have.
    """
    own = network.state_dict()
    problems = []
    for name, tensor in own.items():
        dtype = torch.float32 if tensor.is_floating_point() else None
        problems += _misfit(name, weights.get(name), tensor.shape, dtype)
    return problems + unknown(weights, own)


def load_exactly(network: nn.Module,
                 weights: Dict[str, torch.Tensor],
                 complaint: str,
                 cure: str = '') -> None:
    """Fill a network with weights that are exactly its own, or not at all.

    Args:
        network (nn.Module): The network.
        weights (dict[str, torch.Tensor]): Its weights, by their names.
        complaint (str): How the error begins: whose weights do not fit what.
        cure (str): How it ends: what to do. Defaults to ''.

    Raises:
        ValueError: If they are not; the problems are listed.
    """
    problems = strict_misfits(weights, network)
    if problems:
        raise ValueError(f'{complaint}: {first_few(problems, 5, "; ")}. '
                         f'{cure}'.rstrip())
    network.load_state_dict(weights)


def unknown(weights: Sequence[str], known: Sequence[str]) -> List[str]:
    """The problem of tensors that a network does not have."""
    return [f'{name} is unknown' for name in weights if name not in known]


def num_blocks(names: Sequence[str]) -> int:
    """Number of blocks, called ``<blocks>.<index>.<rest>``."""
    blocks = (re.match(r'(?:timm_model\.)?(?:layers|blocks)\.(\d+)\.', name)
              for name in names)
    return len({block[1] for block in blocks if block})


def _misfit(name: str, given: Optional[torch.Tensor], shape: Sequence[int],
            dtype: Optional[torch.dtype]) -> List[str]:
    """Why a tensor of a file cannot be the one that is needed, if so."""
    if given is None:
        return [f'{name} is missing']
    if tuple(given.shape) != tuple(shape):
        return [
            f'{name} has shape {tuple(given.shape)} instead of {tuple(shape)}'
        ]
    if dtype is None:
        return []
    if not given.is_floating_point():
        return [f'{name} has values of type {given.dtype}']
    if not given.to(dtype).isfinite().all():
        return [f'{name} has values that are not finite as {dtype}']
    return []
