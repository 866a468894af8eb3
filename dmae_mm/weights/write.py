"""Write a checkpoint file, whole or not at all."""
import json
import os
import os.path as osp
import tempfile
from typing import Any, Dict, Optional

import safetensors.torch
import torch


def write_tensor_file(path: str,
                      tensors: Dict[str, torch.Tensor],
                      meta: Dict[str, Any],
                      overwrite: bool = False) -> None:
    """Write weights so that a run that fails leaves nothing behind.

    Args:
        path (str): ``.pth`` becomes ``dict(state_dict=tensors, meta=meta)``,
            as mmengine reads it; ``.safetensors`` gets ``meta`` as text,
            what is no text as JSON.
        tensors (dict[str, torch.Tensor]): The weights.
        meta (dict): Where they came from: text, numbers, and lists and dicts
            of them.
        overwrite (bool): Whether a file at ``path`` may be replaced.

    Raises:
        FileExistsError: If there is something at ``path`` that must not be
            replaced.
        ValueError: If ``path`` has another ending.
    """
    check_writable(path, overwrite)
    # Memory of their own: a view would be saved with all that it views.
    tensors = {
        name: tensor.detach().clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    folder, name = osp.split(osp.abspath(path))
    os.makedirs(folder, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix='.writing-') as temp:
        written = osp.join(temp, name)
        if name.endswith('.safetensors'):
            text = {
                key: value if isinstance(value, str) else json.dumps(value)
                for key, value in meta.items()
            }
            safetensors.torch.save_file(tensors, written, text)
        else:
            torch.save(dict(state_dict=tensors, meta=meta), written)
        os.replace(written, path)


def check_writable(path: str,
                   overwrite: bool,
                   source: Optional[str] = None) -> None:
    """Raise ahead of the work what :func:`write_tensor_file` would raise.

    Args:
        path (str): What is to be written.
        overwrite (bool): Whether it may be replaced.
        source (str, optional): What will be read, and is never replaced.

    Raises:
        FileExistsError: If there is something at ``path`` that must not be
            replaced.
        ValueError: If ``path`` has another ending.
    """
    if source is not None and osp.exists(source) and osp.exists(
            path) and osp.samefile(source, path):
        raise FileExistsError(
            f'{path} is the source itself. Give another destination.')
    if not path.endswith(('.pth', '.safetensors')):
        raise ValueError(f'{path} must end in .pth or .safetensors.')
    if osp.isdir(path):
        raise FileExistsError(f'{path} is a folder.')
    if osp.lexists(path) and not overwrite:
        raise FileExistsError(f'{path} exists already: choose another name, '
                              'or overwrite it (--force, overwrite=True).')
