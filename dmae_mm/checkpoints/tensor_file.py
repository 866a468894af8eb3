"""The weights in a checkpoint file, whoever wrote it."""
import hashlib
import os
import os.path as osp
from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Tuple

import torch

from .download import local_path
from .safe_load import load_without_executing

# Under which key a checkpoint keeps its weights, most telling first. With
# mmengine's EMAHook, 'state_dict' holds the averaged weights, which are the
# ones to use.
_WEIGHT_KEYS = ('state_dict', 'model', 'module')


@dataclass(frozen=True)
class TensorFile:
    """The weights in a checkpoint file and where they came from.

    Attributes:
        source (str): The path or URL as the user gave it.
        sha256 (str): Hash of the file, 64 hexadecimal digits.
        num_bytes (int): Size of the file.
        tensors (dict[str, torch.Tensor]): The weights: dense, on the CPU,
            without gradient. A ``module.`` of DistributedDataParallel in
            front of every name is removed.
        ignored (list[str]): What else the file holds: top-level entries
            beside the weights, and entries among them that are no tensors.
    """
    source: str
    sha256: str
    num_bytes: int
    tensors: Dict[str, torch.Tensor]
    ignored: List[str]


def read_tensor_file(source: str) -> TensorFile:
    """Read a ``.safetensors`` file or one written by ``torch.save``.

    Nothing in the file is executed: pickles go through torch's weights-only
    unpickler, and the few objects that are usual beside weights are read as
    placeholders.

    Args:
        source (str): A path, or an http(s) URL. A download is kept in
            ``torch.hub.get_dir()``; if the file's name ends in eight or more
            hexadecimal digits, as in OpenMMLab's model zoo, they are checked
            against its SHA-256.

    Returns:
        TensorFile: The weights, on the CPU.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged, holds no weights, holds weights
            that are not dense tensors, or names objects that only unpickling
            could build.
        OSError: If the download fails, or the file may not be read.
    """
    source = os.fspath(source)
    path = local_path(source)
    shown = source if path == source else f'{source} (kept as {path})'
    digest = _sha256(path)
    content = load_without_executing(path, shown)
    tensors, ignored = _select_weights(content, shown)
    return TensorFile(source, digest, osp.getsize(path), tensors, ignored)


def _select_weights(
        content: Any,
        shown: str) -> Tuple[Dict[str, torch.Tensor], List[str]]:
    """Split a checkpoint into its weights and the names of all the rest."""
    if not isinstance(content, dict):
        content = {}
    key = _weight_key(content)
    weights = content if key is None else content[key]
    ignored = [] if key is None else [str(k) for k in content if k != key]
    tensors = {}
    for name, value in weights.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            ignored.append(str(name))
            continue
        if not _is_dense(value):
            raise ValueError(
                f'The checkpoint {shown} cannot be used: {name} is a sparse, '
                'quantized, nested or meta tensor. Save it as a dense one.')
        tensors[name] = value.data  # without gradient, hooks, attributes
    if not tensors:
        raise ValueError(
            f'The checkpoint {shown} holds no named tensors, but '
            f'{", ".join(map(repr, ignored[:10])) or "nothing"}. Expected is '
            'a dict of tensors, alone or under one of the keys '
            f'{", ".join(map(repr, _WEIGHT_KEYS))}.')
    if all(name.startswith('module.') for name in tensors):
        tensors = {
            name[len('module.'):]: tensor
            for name, tensor in tensors.items()
        }
    return tensors, ignored


def _weight_key(content: dict) -> Optional[str]:
    for key in _WEIGHT_KEYS:
        if isinstance(content.get(key), dict) and any(
                isinstance(value, torch.Tensor)
                for value in content[key].values()):
            return key
    return None


def _is_dense(tensor: torch.Tensor) -> bool:
    return (tensor.layout is torch.strided and not tensor.is_quantized
            and not tensor.is_nested and not tensor.is_meta)


def _sha256(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        for chunk in iter(lambda: file.read(1 << 20), b''):
            digest.update(chunk)
    return digest.hexdigest()
