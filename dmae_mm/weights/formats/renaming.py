"""What tables of names are made of, and what timm fuses."""
import re
from typing import Dict, List, Sequence, Tuple

import torch

from dmae_mm.messages import first_few

from ..tensor_file import Tensors


def table(text: str) -> Dict[str, str]:
    """Old and new names in lines; * stands for weight and bias, # for the
    number of a block."""
    lines = (line.split() for line in text.splitlines() if line.strip())
    return {
        old.replace('*', kind): new.replace('*', kind)
        for old, new in lines for kind in ('weight', 'bias')
    }


def rename(tensors: Tensors, names: Dict[str, str],
           aside: Sequence[str]) -> Tuple[Tensors, List[str]]:
    """Rename all tensors of a file, or say which are unknown.

    Args:
        tensors (dict[str, torch.Tensor]): The file's.
        names (dict[str, str]): Of :func:`table`.
        aside (Sequence[str]): How the names begin that have no place in an
            encoder, such as those of its head.

    Returns:
        tuple[dict, list[str]]: The renamed tensors, and the names of those
        set aside.

    Raises:
        ValueError: If a name is in neither.
    """
    renamed, left, unknown = {}, [], []
    for name, tensor in tensors.items():
        numbers = re.findall(r'(?<=\.)\d+(?=\.)', name)
        new = names.get(re.sub(r'(?<=\.)\d+(?=\.)', '#', name, count=1))
        if new is not None and '#' not in name:
            renamed[new.replace('#', numbers[0] if numbers else '')] = tensor
        elif name.startswith(tuple(aside)):
            left.append(name)
        else:
            unknown.append(name)
    if unknown:
        raise ValueError(f'these tensors are unknown: {first_few(unknown)}')
    return renamed, left


def fuse_qkv(tensors: Tensors, kinds: Sequence[str] = ('q', 'k', 'v'),
             fused: str = 'qkv') -> Tensors:
    """Join ``blocks.#.attn.q.weight``, ``k`` and ``v`` (and biases) to
    ``blocks.#.attn.qkv.weight``, as timm has them; a missing bias of one is
    zero where another has a bias."""
    parts: Dict[str, Dict[str, torch.Tensor]] = {}
    others = {}
    for name, tensor in tensors.items():
        found = re.fullmatch(
            rf'(blocks\.\d+\.attn)\.({"|".join(kinds)})\.(weight|bias)', name)
        if found:
            parts.setdefault(f'{found[1]}.{fused}.{found[3]}',
                             {})[found[2]] = tensor
        else:
            others[name] = tensor
    for name, given in parts.items():
        if name.endswith('.bias'):
            some = next(iter(given.values()))
            given = {**{kind: torch.zeros_like(some) for kind in kinds},
                     **given}
        missing = [kind for kind in kinds if kind not in given]
        if missing:
            raise ValueError(f'{name} cannot be made: of its parts {kinds}, '
                             f'{missing} are missing')
        others[name] = torch.cat([given[kind] for kind in kinds])
    return others
