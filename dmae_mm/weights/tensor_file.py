"""The weights in a checkpoint file: read, whoever wrote it, and written."""
import json
import os
import os.path as osp
from dataclasses import dataclass, field, replace
from typing import Any, Dict, List, Optional, Tuple

import safetensors.torch
import torch

from dmae_mm.files import write_whole
from dmae_mm.messages import first_few

from .download import local_path, sha256_of
from .model_folder import (INDEX, folder_of, refuse_single_shard,
                           sets_of_weights, shards_of)
from .safe_load import load_without_executing

Tensors = Dict[str, torch.Tensor]

# Under which key a checkpoint keeps its weights. Where there are averaged
# ones, they come first, as in timm. With mmengine's EMAHook, 'state_dict'
# itself holds them, and 'ema_state_dict' the others.
_AVERAGED_KEYS = ('state_dict_ema', 'model_ema')
# Self-distillation (DINO, iBOT, DINOv2) keeps two networks, of which the
# teacher is the average of the student.
_WEIGHT_KEYS = _AVERAGED_KEYS + ('state_dict', 'model', 'module', 'teacher',
                                 'student')

# How much of a file's description of itself is kept: characters of text plus
# number of values, and levels of lists and dicts in each other.
_META_SIZE = 1 << 20
_META_DEPTH = 8
_NOT_PLAIN = object()


@dataclass(frozen=True)
class TensorFile:
    """The weights in a checkpoint file and where they came from.

    Attributes:
        source (str): The path or URL as the user gave it.
        sha256 (str): Hash of the file, 64 hexadecimal digits. Of several
            shards, that of all their bytes in the order of their names, as
            ``cat model-*.safetensors | sha256sum`` says it.
        num_bytes (int): Size of the file, or of all shards.
        tensors (dict[str, torch.Tensor]): The weights: dense, on the CPU,
            without gradient. A ``module.`` of DistributedDataParallel in
            front of every name is removed.
        ignored (list[str]): What else the file holds: top-level entries
            beside the weights, and entries among them that are no tensors.
        weights_key (str | None): The top-level entry that holds the weights;
            None if they are the top level themselves.
        is_averaged (bool): Whether the file says that the weights are an
            average over training (EMA).
        meta (dict): What the file says about itself, as far as it is plain
            data (None, bool, int, float, str, and lists and dicts of these)
            of sensible size: the entries of its ``meta``, single values
            beside the weights such as ``epoch``, or, for
            ``.safetensors``, the header's metadata.
        folder (str | None): Where it lies, with the descriptions that model
            libraries keep beside it; None for a download.
    """
    source: str
    sha256: str
    num_bytes: int
    tensors: Tensors
    ignored: List[str]
    weights_key: Optional[str] = None
    is_averaged: bool = False
    meta: Dict[str, Any] = field(default_factory=dict)
    folder: Optional[str] = None


def read_tensor_file(source: str) -> TensorFile:
    """Read a ``.safetensors`` file, one written by ``torch.save``, or the
    weights in a folder.

    Nothing in the file is executed: pickles go through torch's weights-only
    unpickler, and the few objects that are usual beside weights are read as
    placeholders.

    Args:
        source (str): A path, or an http(s) URL. A download is kept in
            ``torch.hub.get_dir()``; if the file's name ends in eight or more
            hexadecimal digits, as in OpenMMLab's model zoo, they are checked
            against its SHA-256. A folder must hold one set of weights: a
            file, or shards with the ``.index.json`` that lists them (whose
            path may be given as well). Several are accepted if their tensors
            are the same.

    Returns:
        TensorFile: The weights, on the CPU.

    Raises:
        FileNotFoundError: If there is no such file, or a shard is missing.
        ValueError: If the file is damaged, holds no weights, holds weights
            that are not dense tensors or are larger than what the file holds
            of them, or names objects that only unpickling could build; or if
            a folder holds different sets of weights.
        OSError: If the download fails, or the file may not be read.
    """
    source = os.fspath(source)
    if osp.isdir(source):
        first, *others = sets_of_weights(source)
        file = _read_set(first, first)
        for other in others:
            _refuse_different(source, file, _read_set(other, other))
        return replace(file, source=source)
    path = source if source.endswith(INDEX) and osp.isfile(
        source) else local_path(source)
    shown = source if path == source else f'{source} (kept as {path})'
    refuse_single_shard(path)
    file = _read_set(path, shown)
    return replace(
        file, source=source, folder=file.folder if path == source else None)


def _read_set(path: str, shown: str) -> TensorFile:
    """A file, or the shards of an index."""
    if not path.endswith(INDEX):
        return _read_file(path, shown)
    listed = shards_of(path)
    shards = [_read_file(shard, shard) for shard in listed]
    tensors: Tensors = {}
    for shard in shards:
        wrong = sorted(shard.tensors.keys() ^ set(listed[shard.source]))
        if wrong:
            raise ValueError(
                f'{shard.source} does not hold what {path} says, but another '
                f'set of tensors: they differ in {first_few(wrong, 3)}. They '
                'are of different models, or one is damaged: fetch both '
                'again.')
        tensors.update(shard.tensors)
    return TensorFile(
        path,
        sha256_of(*listed),
        sum(shard.num_bytes for shard in shards),
        tensors, [name for shard in shards for name in shard.ignored],
        meta=shards[0].meta,
        folder=folder_of(path))


def _read_file(path: str, shown: str) -> TensorFile:
    digest = sha256_of(path)
    content = load_without_executing(path, shown)
    if not isinstance(content, dict):
        content = {}
    key = _weight_key(content)
    tensors, ignored = _select_weights(content, key, shown)
    return TensorFile(
        path,
        digest,
        osp.getsize(path),
        tensors,
        ignored,
        weights_key=key,
        is_averaged=key in (*_AVERAGED_KEYS, 'teacher')
        or (key == 'state_dict' and 'ema_state_dict' in content),
        meta=_meta(content),
        folder=folder_of(path))


def _refuse_different(folder: str, file: TensorFile,
                      other: TensorFile) -> None:
    """Refuse to choose between weights that are not the same.

    Numbers of positions and the like, which are no weights, do not count:
    not every format keeps them.
    """
    one, two = ({
        name: tensor
        for name, tensor in each.tensors.items() if tensor.is_floating_point()
    } for each in (file, other))
    differ = sorted(one.keys() ^ two.keys()) + [
        name for name in one if name in two
        and not (one[name].dtype == two[name].dtype
                 and one[name].shape == two[name].shape
                 and one[name].equal(two[name]))
    ]
    if differ:
        raise ValueError(
            f'The folder {folder} holds more than one set of weights: '
            f'{file.source} and {other.source} differ in {len(differ)} '
            f'tensors ({first_few(differ, 3)}). Give the path of the one '
            'that is meant.')


def write_tensor_file(path: str,
                      tensors: Tensors,
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
        CannotWrite: If the disk is full or must not be written to.
    """
    check_writable(path, overwrite)
    with write_whole(path) as unfinished:
        save_tensors(unfinished, tensors, meta)


def save_tensors(path: str, tensors: Tensors, meta: Dict[str, Any]) -> None:
    """Write to ``path`` what :func:`write_tensor_file` would write."""
    # Memory of their own: a view would be saved with all that it views.
    tensors = {
        name: tensor.detach().clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    if path.endswith('.safetensors'):
        text = {
            key: value if isinstance(value, str) else json.dumps(value)
            for key, value in meta.items()
        }
        open(path, 'ab').close()
        mode = os.stat(path).st_mode
        safetensors.torch.save_file(tensors, path, text)
        os.chmod(path, mode)  # it leaves a file that its owner alone can read
    else:
        torch.save(dict(state_dict=tensors, meta=meta), path)


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
    if not path.endswith(('.pth', '.safetensors')):
        raise ValueError(f'{path} must end in .pth or .safetensors.')
    check_replaceable(path, overwrite, source)


def check_replaceable(path: str,
                      overwrite: bool,
                      source: Optional[str] = None) -> None:
    """As :func:`check_writable`, for a file of any ending."""
    if source is not None and osp.exists(source) and osp.exists(
            path) and osp.samefile(source, path):
        raise FileExistsError(
            f'{path} is the source itself. Give another destination.')
    if osp.isdir(path):
        raise FileExistsError(f'{path} is a folder.')
    if osp.lexists(path) and not overwrite:
        raise FileExistsError(f'{path} exists already: choose another name, '
                              'or overwrite it (--force, overwrite=True).')


def _select_weights(content: dict, key: Optional[str],
                    shown: str) -> Tuple[Tensors, List[str]]:
    """Split a checkpoint into its weights and the names of all the rest."""
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
        if (value.numel() * value.element_size() >
                value.untyped_storage().nbytes()):
            raise ValueError(
                f'The checkpoint {shown} cannot be used: {name} has '
                f'{value.numel()} values, of which it holds only some (an '
                'expanded view). Save it contiguous: tensor.contiguous().')
        tensors[name] = value.data  # without gradient, hooks, attributes
    if not tensors and {'state', 'param_groups'} <= content.keys():
        raise ValueError(
            f'The checkpoint {shown} is the state of an optimizer, without '
            'the weights of a model. Give the file that the same training '
            'wrote for the model.')
    if not tensors:
        raise ValueError(
            f'The checkpoint {shown} holds no named tensors, but '
            f'{first_few([repr(name) for name in ignored], 10) or "nothing"}. '
            'Expected is a dict of tensors, alone or under one of the keys '
            f'{", ".join(map(repr, _WEIGHT_KEYS))}.')
    if all(name.startswith('module.') for name in tensors):
        tensors = {
            name.removeprefix('module.'): tensor
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


def _meta(content: dict) -> Dict[str, Any]:
    """What a checkpoint says about itself, as plain data."""
    found = {
        name: value
        for name, value in content.items()
        if not isinstance(value, (dict, list, tuple))
    }
    for key in ('meta', '__metadata__'):
        if isinstance(content.get(key), dict):
            found.update(content[key])
    return _plain(found, [_META_SIZE])


def _plain(value: Any, room: List[int], depth: int = 0) -> Any:
    """Copy plain data.

    Args:
        value (Any): Anything, even a list that contains itself.
        room (list[int]): How much may still be copied; it is counted down.
        depth (int): In how many lists and dicts the value lies.

    Returns:
        Any: The copy, a tuple as a list; without those entries of dicts that
        are not plain or find no room. ``_NOT_PLAIN`` for all else.
    """
    room[0] -= 1 + (len(value) if isinstance(value, str) else 0)
    if room[0] < 0 or depth > _META_DEPTH:
        return _NOT_PLAIN
    if isinstance(value, dict):
        copied = {}
        for name, item in value.items():
            if isinstance(name, str):
                room[0] -= len(name)
                item = _plain(item, room, depth + 1)
                if item is not _NOT_PLAIN:
                    copied[name] = item
        return copied
    if isinstance(value, (list, tuple)):
        items = [_plain(item, room, depth + 1) for item in value]
        return _NOT_PLAIN if _NOT_PLAIN in items else items
    if isinstance(value, int) and value.bit_length() > 64:
        return _NOT_PLAIN  # it could not be written as text
    plain = (str, int, float, bool, type(None))
    return value if isinstance(value, plain) else _NOT_PLAIN


def _is_dense(tensor: torch.Tensor) -> bool:
    return (tensor.layout is torch.strided and not tensor.is_quantized
            and not tensor.is_nested and not tensor.is_meta)
