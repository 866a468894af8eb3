"""Whether two runs have come to the same, bit for bit."""
from typing import Any, Dict, List

import torch

from dmae_mm.weights.safe_load import load_training_checkpoint

PARTS = ('state_dict', 'ema_state_dict', 'optimizer', 'param_schedulers')


def checkpoint_content(path: str) -> Dict[str, Any]:
    """What decides how a run goes on, by its place in the checkpoint.

    Args:
        path (str): A checkpoint.

    Returns:
        dict[str, Any]: Tensors and numbers of weights, their average,
        optimizer and schedules, by names such as ``/optimizer/state/0/step``.
    """
    checkpoint = load_training_checkpoint(path, path)
    return _flat({
        part: checkpoint[part]
        for part in PARTS if part in checkpoint
    })


def differences(first: Dict[str, Any], second: Dict[str, Any]) -> List[str]:
    """Names of what is not the same in two of :func:`checkpoint_content`."""
    return sorted(name for name in first.keys() | second.keys()
                  if name not in first or name not in second
                  or not _same(first[name], second[name]))


def _flat(content: Any, prefix: str = '') -> Dict[str, Any]:
    if isinstance(content, dict):
        items = content.items()
    elif isinstance(content, (list, tuple)):
        items = enumerate(content)
    else:
        return {prefix: content}
    return {
        name: value
        for key, part in items
        for name, value in _flat(part, f'{prefix}/{key}').items()
    }


def _same(first: Any, second: Any) -> bool:
    if isinstance(first, torch.Tensor):
        return (isinstance(second, torch.Tensor)
                and first.dtype == second.dtype and torch.equal(first, second))
    return type(first) is type(second) and first == second
