"""Read the tensors of a checkpoint without executing anything in it."""
import hashlib
import os
import os.path as osp
import pickle
import re
import struct
import zipfile
from dataclasses import dataclass
from typing import Any, Dict, List
from urllib.parse import urlparse

import safetensors
import safetensors.torch
import torch
from mmengine.dist import barrier, get_local_rank, is_distributed


class _Ignored:
    """Stands for an object beside the tensors; keeps nothing of it."""

    def __init__(self, *args) -> None:
        pass

    def __new__(cls, *args):
        return super().__new__(cls)

    def __setstate__(self, state) -> None:
        pass

    def __reduce__(self):
        return _Ignored, ()

    def __setitem__(self, key, value) -> None:
        pass


# What training frameworks leave beside the tensors: message hubs and metrics
# (mmengine), command lines (MAE, timm), numbers of numpy. None of it is
# needed, so none of it is built: each name is read as `_Ignored`. All names
# that are not here are refused by torch's own weights-only unpickler.
_IGNORED_GLOBALS = [(_Ignored, name) for name in (
    'argparse.Namespace',
    'builtins.getattr',
    'builtins.slice',
    'mmengine.logging.history_buffer.HistoryBuffer',
    'numpy._core.multiarray._reconstruct',
    'numpy._core.multiarray.scalar',
    'numpy.core.multiarray._reconstruct',
    'numpy.core.multiarray.scalar',
    'numpy.dtype',
    'numpy.dtypes.Float32DType',
    'numpy.dtypes.Float64DType',
    'numpy.dtypes.Int32DType',
    'numpy.dtypes.Int64DType',
    'numpy.dtypes.UInt32DType',
    'numpy.ndarray',
    'pathlib.PosixPath',
    'pathlib._local.PosixPath',
)]

# Under which key a checkpoint keeps its weights, most telling first. With
# mmengine's EMAHook, 'state_dict' holds the averaged weights, which are the
# ones to use.
_WEIGHT_KEYS = ('state_dict', 'model', 'module')


@dataclass(frozen=True)
class TensorFile:
    """The tensors of a checkpoint file and where they came from.

    Attributes:
        source (str): The path or URL as the user gave it.
        sha256 (str): Hash of the file, 64 hexadecimal digits.
        num_bytes (int): Size of the file.
        tensors (dict[str, torch.Tensor]): The weights, on the CPU; a
            leading ``module.`` of DataParallel is removed from the names.
        ignored (list[str]): What else the file held: top-level entries and
            entries of the state dict that are not tensors.
    """
    source: str
    sha256: str
    num_bytes: int
    tensors: Dict[str, torch.Tensor]
    ignored: List[str]


def read_tensor_file(source: str) -> TensorFile:
    """Read a ``.safetensors`` file or one written by ``torch.save``.

    Nothing in the file is executed: pickles go through torch's weights-only
    unpickler, and the few objects that are usual beside tensors are read as
    placeholders.

    Args:
        source (str): A path, or an http(s) URL. A download is kept in
            ``torch.hub.get_dir()``; if the file's name ends in eight or more
            hexadecimal digits, as in OpenMMLab's model zoo, they are checked
            against its SHA-256.

    Returns:
        TensorFile: The tensors, on the CPU.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged, holds no tensors or names objects
            that only unpickling could build.
        OSError: If the download fails.
    """
    path = _local_path(source)
    if source.endswith('.safetensors'):
        try:
            content: Any = safetensors.torch.load_file(path)
        except (safetensors.SafetensorError, struct.error) as error:
            raise ValueError(_damaged(source, error)) from None
    else:
        content = _load_without_pickle(path, source)

    tensors, ignored = _select_tensors(content)
    if not tensors:
        raise ValueError(
            f'The checkpoint {source} holds no named tensors. Expected is a '
            'dict of tensors, alone or under one of the keys '
            f'{", ".join(map(repr, _WEIGHT_KEYS))}.')
    return TensorFile(source, _sha256(path), osp.getsize(path), tensors,
                      ignored)


def _load_without_pickle(path: str, source: str) -> Any:
    try:
        with torch.serialization.safe_globals(_IGNORED_GLOBALS):
            return torch.load(path, map_location='cpu', weights_only=True)
    except pickle.UnpicklingError as error:
        refused = re.search(r'GLOBAL (\S+) was not an allowed global',
                            str(error))
        if refused is None:
            raise ValueError(_damaged(source, error)) from None
        raise ValueError(
            f'The checkpoint {source} is refused: it asks for '
            f'{refused.group(1)}, and building that could run code from the '
            'file. Nothing was executed. If you trust its origin, load it '
            'where running its code does no harm and save its state dict '
            'alone, with torch.save or safetensors.') from None
    except (RuntimeError, EOFError, zipfile.BadZipFile, KeyError, IndexError,
            TypeError, ValueError, AttributeError, OverflowError,
            struct.error, AssertionError) as error:
        raise ValueError(_damaged(source, error)) from None


def _damaged(source: str, error: Exception) -> str:
    reason = str(error).strip().splitlines()
    return (f'The checkpoint {source} cannot be read '
            f'({type(error).__name__}: {reason[0] if reason else ""}). It is '
            'damaged, incomplete or not a checkpoint: fetch it again, and '
            'compare its size and checksum with the origin.')


def _select_tensors(content: Any) -> tuple:
    """Split a checkpoint into named tensors and the names of the rest."""
    if not isinstance(content, dict):
        return {}, []
    ignored = []
    weights = content
    for key in _WEIGHT_KEYS:
        if isinstance(content.get(key), dict):
            weights = content[key]
            ignored = [str(name) for name in content if name != key]
            break
    tensors = {}
    for name, value in weights.items():
        if isinstance(name, str) and isinstance(value, torch.Tensor):
            tensors[name[len('module.'):] if name.
                    startswith('module.') else name] = value
        else:
            ignored.append(str(name))
    return tensors, ignored


def _local_path(source: str) -> str:
    """Where the file lies; a URL is downloaded first, once a machine."""
    if urlparse(source).scheme not in ('http', 'https'):
        if not osp.isfile(source):
            raise FileNotFoundError(
                f'The checkpoint {source} does not exist. Give the path of '
                'a file or an http(s) URL.')
        return source
    name = osp.basename(urlparse(source).path)
    path = osp.join(torch.hub.get_dir(), 'checkpoints', name)
    if get_local_rank() == 0 and not osp.exists(path):
        _download(source, path)
    if is_distributed():
        barrier()
    return path


def _download(url: str, path: str) -> None:
    os.makedirs(osp.dirname(path), exist_ok=True)
    digits = re.search(r'-([0-9a-f]{8,})\.\w+$', path)
    try:
        torch.hub.download_url_to_file(
            url, path, hash_prefix=digits.group(1) if digits else None)
    except Exception as error:
        raise OSError(
            f'The checkpoint {url} cannot be downloaded ({error}). Download '
            'it elsewhere and give its path instead.') from error


def _sha256(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        for chunk in iter(lambda: file.read(1 << 20), b''):
            digest.update(chunk)
    return digest.hexdigest()
