"""The weights in a folder, as model libraries save one: which files they
are, and what the descriptions beside them say."""
import json
import os
import os.path as osp
import re
from typing import Any, Dict, List, Optional

from dmae_mm.host import CHECKPOINTS
from dmae_mm.messages import first_few

INDEX = '.index.json'
# What a trainer leaves beside the weights.
_OF_A_TRAINER = re.compile(
    r'(optimizer|scheduler|scaler|training_args|rng_state\w*)\.\w+')
_SHARD = re.compile(r'-(\d{5})-of-(\d{5})\.\w+$')
# Names of 21,841 classes in two directions are 2 MiB.
_JSON_BYTES = 16 << 20
_INDEX_BYTES = 64 << 20


def sets_of_weights(folder: str) -> List[str]:
    """What in a folder holds weights: files, and indices of several.

    Args:
        folder (str): The folder.

    Returns:
        list[str]: Their paths, ``.safetensors`` first. Shards that belong
        to an index, and what a trainer keeps for resuming, are left out.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If there are only shards, and no index says of what.
    """
    names = sorted(os.listdir(folder))
    found = [
        name for name in names
        if name.lower().endswith(tuple(end + INDEX for end in CHECKPOINTS))
    ]
    shards = [name for name in names if _is_shard(name)]
    found += [
        name for name in names if name.lower().endswith(CHECKPOINTS)
        and name not in shards and not _OF_A_TRAINER.fullmatch(name)
    ]
    if not found and shards:
        raise ValueError(
            f'The folder {folder} has {len(shards)} shards of weights '
            f'({first_few(shards, 2)}), but no {INDEX[1:]} that lists them: '
            'fetch it from where they are from '
            '(model.safetensors.index.json).')
    if not found:
        raise FileNotFoundError(
            f'The checkpoint {folder} is a folder, without a file of weights '
            f'(of {first_few(names, 5) or "nothing"}). Expected is '
            'model.safetensors, a model.safetensors.index.json with its '
            'shards, or any other file that ends in '
            f'{", ".join(CHECKPOINTS)}.')
    found.sort(key=lambda name: '.safetensors' not in name.lower())
    return [osp.join(folder, name) for name in found]


def check_folder(folder: str) -> None:
    """Raise what reading a folder would, as far as names tell it."""
    for path in sets_of_weights(folder):
        if path.endswith(INDEX):
            shards_of(path)


def shards_of(index: str) -> Dict[str, List[str]]:
    """The files that an index lists, all in its own folder.

    Args:
        index (str): Path of a ``model.safetensors.index.json``, or the like.

    Returns:
        dict[str, list[str]]: Path of each shard, in the order of their
        names, and the names of its tensors.

    Raises:
        FileNotFoundError: If a shard is missing.
        ValueError: If it is no such index, or names files that are not in
            its folder.
    """
    table = read_json(index, _INDEX_BYTES).get('weight_map')
    if not isinstance(table, dict) or not table or not all(
            isinstance(name, str) for name in table.values()):
        raise ValueError(f'{index} is no index of shards: it has no '
                         '"weight_map" of names of tensors and of files.')
    names = sorted(set(table.values()))
    # A link to elsewhere is a decision of whoever owns the folder, and how
    # the cache of the hub keeps files; a path is one of the file's author.
    outside = [
        name for name in names
        if not re.fullmatch(r'\w[\w.-]*', name)
        or not name.lower().endswith(CHECKPOINTS)
    ]
    if outside:
        raise ValueError(
            f'{index} is refused: it names {first_few(outside, 3)}. A shard '
            f'must be a file in the same folder, ending in '
            f'{", ".join(CHECKPOINTS)}.')
    folder = osp.dirname(index)
    missing = [
        name for name in names if not osp.isfile(osp.join(folder, name))
    ]
    if missing:
        raise FileNotFoundError(
            f'{index} lists {len(names)} shards, of which '
            f'{first_few(missing)} {"is" if len(missing) == 1 else "are"} '
            f'not there: fetch {"it" if len(missing) == 1 else "them"} into '
            'the same folder.')
    listed: Dict[str, List[str]] = {osp.join(folder, n): [] for n in names}
    for tensor, name in table.items():
        listed[osp.join(folder, name)].append(tensor)
    return listed


def refuse_single_shard(path: str) -> None:
    """Say what to give instead of one of several shards."""
    if _is_shard(path):
        raise ValueError(
            f'The checkpoint {path} is one shard of several: give the folder, '
            f'{osp.dirname(path) or "."}, or the {INDEX[1:]} in it.')


def read_json(path: str, limit: int = _JSON_BYTES) -> Dict[str, Any]:
    """Read what a folder says of its model.

    Args:
        path (str): Path of a ``config.json``, or the like.
        limit (int): How many bytes it may have.

    Returns:
        dict[str, Any]: Its content.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is larger, or no JSON of an object.
    """
    with open(path, 'rb') as file:
        text = file.read(limit + 1)
    if len(text) > limit:
        raise ValueError(f'{path} is larger than {limit >> 20} MiB: it is not '
                         'the description of a model.')
    try:
        content = json.loads(text.decode())
    except (ValueError, RecursionError) as error:
        raise ValueError(f'{path} cannot be read as JSON ({error}): fetch it '
                         'again from where the model is from.') from None
    if not isinstance(content, dict):
        raise ValueError(f'{path} is no description of a model: it holds a '
                         f'{type(content).__name__}.')
    return content


def description(folder: Optional[str], name: str) -> Optional[Dict[str, Any]]:
    """As :func:`read_json`; None if the folder has no such file."""
    if folder is None or not osp.isfile(osp.join(folder, name)):
        return None
    return read_json(osp.join(folder, name))


def folder_of(checkpoint: str) -> Optional[str]:
    """Where a checkpoint's descriptions would lie: in itself, if it is a
    folder, or else beside it. None for an address, or if it is not there."""
    if osp.isdir(checkpoint):
        return checkpoint
    return (osp.dirname(checkpoint) or '.') if osp.isfile(
        checkpoint) else None


def _is_shard(name: str) -> bool:
    number = _SHARD.search(name)
    return number is not None and int(number[2]) > 1
