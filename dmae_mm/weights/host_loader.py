"""MMEngine's ``CheckpointLoader``, without unpickling anything.

MMEngine looks for the loader of a checkpoint by what its name begins with.
Here are those of all names that it knows; their logged names are its own.
"""
import difflib
import os
import os.path as osp
import tempfile
from typing import Any

import torch
from mmengine.fileio import get_file_backend
from mmengine.runner import (CheckpointLoader, get_deprecated_model_names,
                             get_external_models, get_mmcls_models,
                             get_torchvision_models)

from .download import local_path
from .safe_load import RefusedFile, load_training_checkpoint


def register_loader() -> None:
    """Let nothing of this process load a checkpoint in another way.

    It holds for whatever goes through MMEngine: ``load_from``, resuming,
    ``init_cfg=dict(type='Pretrained')``, ``load_checkpoint``, and
    ``get_model`` of mmpretrain.
    """
    for loader, *prefixes in (
        (load_from_local, ''),
        (load_from_http, 'http://', 'https://'),
        (load_from_torchvision, 'modelzoo://', 'torchvision://'),
        (load_from_openmmlab, 'open-mmlab://', 'openmmlab://'),
        (load_from_mmcls, 'mmcls://'),
        (load_from_ceph, r'(\S+\:)?s3://', r'(\S+\:)?petrel://'),
        (load_from_pavi, 'pavi://'),
    ):
        CheckpointLoader.register_scheme(prefixes, loader, force=True)


def load_from_local(filename: str, map_location: Any = None) -> Any:
    """Load a file.

    Args:
        filename (str): A path, or an http(s) URL.
        map_location (Any): Where its tensors go, as for ``torch.load``.
            Defaults to None: where they were, or to the CPU on a machine
            without GPU.

    Returns:
        Any: Its content, as of :func:`load_training_checkpoint`.

    Raises:
        FileNotFoundError: If there is no such file.
        OSError: If it cannot be fetched.
        RefusedFile: If it is damaged or holds what is not built.
    """
    if filename.lower().endswith('.safetensors'):
        raise RefusedFile(
            f'The checkpoint {filename} is a .safetensors file, which '
            'MMEngine does not read. tools/model_converters/export.py writes '
            'a .pth.')
    path = local_path(osp.expanduser(filename))
    if map_location is None and not torch.cuda.is_available():
        map_location = 'cpu'
    shown = filename if path == osp.expanduser(
        filename) else f'{filename} (kept as {path})'
    return load_training_checkpoint(path, shown, map_location)


def load_from_http(filename: str, map_location: Any = None) -> Any:
    """The same for an address."""
    return load_from_local(filename, map_location)


def load_from_torchvision(filename: str, map_location: Any = None) -> Any:
    """The same for a model of torchvision's: 'torchvision://resnet50'."""
    return load_from_http(
        _look_up(filename, get_torchvision_models()), map_location)


def load_from_openmmlab(filename: str, map_location: Any = None) -> Any:
    """The same for a model of MMEngine's table."""
    scheme, name = filename.split('://', 1)
    name = get_deprecated_model_names().get(name, name)
    return load_from_http(
        _look_up(f'{scheme}://{name}', get_external_models()), map_location)


def load_from_mmcls(filename: str, map_location: Any = None) -> dict:
    """The same for a model of MMClassification's: its backbone."""
    content = load_from_http(
        _look_up(filename, get_mmcls_models()), map_location)
    weights = content.get('state_dict', content)
    return dict(
        state_dict={
            name.removeprefix('backbone.'): weight
            for name, weight in weights.items()
            if name.startswith('backbone.')
        })


def load_from_ceph(filename: str, map_location: Any = None) -> Any:
    """The same for an object store, through MMEngine's backend for it."""
    backend = get_file_backend(filename, backend_args=dict(backend='petrel'))
    with tempfile.TemporaryDirectory() as folder:
        path = osp.join(folder, 'checkpoint.pth')
        with open(path, 'wb') as file:
            file.write(backend.get(filename))
        return load_training_checkpoint(path, filename, map_location)


def load_from_pavi(filename: str, map_location: Any = None) -> Any:
    """Refuse it: it needs a service that nothing here can be tried with."""
    raise RefusedFile(f'The checkpoint {filename} is on a PAVI server. Fetch '
                      'it, and give the path of the file.')


def _look_up(filename: str, addresses: dict) -> str:
    """The address of a model that is given by name."""
    scheme, name = filename.split('://', 1)
    address = addresses.get(name)
    if address is None:
        close = difflib.get_close_matches(name, addresses, 3)
        raise ValueError(
            f'The checkpoint {filename} is not known: {scheme}:// names none '
            f'of {name!r}. ' + (f'Close are {", ".join(close)}.' if close else
                                'Give the path of a file or an http(s) URL.'))
    if not address.startswith(('http://', 'https://')):
        raise RefusedFile(f'The checkpoint {filename} stands for the file '
                          f'{os.fspath(address)}: give its path.')
    return address
