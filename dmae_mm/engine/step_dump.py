"""What is written down of a training step, so that it can be run again.

A dump is a file of ``torch.save`` that ``torch.load(weights_only=True)``
reads: tensors, text, numbers, and lists and dicts of them.
"""
import importlib
import os
import random
from typing import Any, Dict, List, Optional

import numpy as np
import torch
from mmengine.structures import BaseDataElement

FORMAT = 'dmae_mm step 1'
# Keys of the dicts that stand for what is no plain value.
_ARRAY, _ELEMENT = '__ndarray__', '__data_element__'
_PACKAGES = ('mmengine', 'mmpretrain', 'mmseg', 'mmdet', 'dmae_mm')


def write_dump(path: str, content: Dict[str, Any]) -> int:
    """Write a dump, whole or not at all.

    Returns:
        int: Its size in bytes.

    Raises:
        OSError: If it cannot be written, for example to a full disk. Nothing
            is left behind then.
    """
    part = f'{path}.part'
    try:
        torch.save(dict(format=FORMAT, **content), part)
        os.replace(part, path)
    except (OSError, RuntimeError) as error:  # torch raises the latter
        if os.path.exists(part):
            os.remove(part)
        raise OSError(str(error).splitlines()[0]) from error
    return os.path.getsize(path)


def read_dump(path: str) -> Dict[str, Any]:
    """Read what :func:`write_dump` wrote, without executing anything in it.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is something else.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f'There is no dump {path!r}.')
    try:
        content = torch.load(path, map_location='cpu', weights_only=True)
    except Exception as error:  # anything can be in a file
        raise ValueError(f'{path!r} is damaged or no dump of a step '
                         f'({type(error).__name__}).') from None
    if not isinstance(content, dict) or content.get('format') != FORMAT:
        raise ValueError(f'{path!r} is no dump of a step: it has no '
                         f'format={FORMAT!r}. Checkpoints are not dumps.')
    return content


def random_state() -> Dict[str, Any]:
    """The state of all random generators of this process, as plain values.

    It takes some microseconds and waits for no device: CUDA's generator is
    kept on the host.
    """
    numpy = np.random.get_state()
    state = dict(
        python=random.getstate(),
        numpy=[numpy[0], torch.from_numpy(numpy[1].astype(np.int64)),
               *numpy[2:]],
        torch=torch.get_rng_state())
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        state['cuda'] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: Dict[str, Any]) -> None:
    """Put all random generators into a state of :func:`random_state`."""
    version, words, gauss = state['python']
    random.setstate((version, tuple(words), gauss))
    name, keys, *rest = state['numpy']
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state['torch'])
    if 'cuda' in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state['cuda'])


def file_names(batch: Any) -> List[str]:
    """Names of the images of a batch, as ``PackInputs`` stores them."""
    samples = batch.get('data_samples') if isinstance(batch, dict) else None
    names = (getattr(sample, 'img_path', None) for sample in samples or [])
    return [str(name) for name in names if name is not None]


def plain(value: Any) -> Any:
    """A batch of the data loader as plain values.

    Raises:
        TypeError: If something in it has no plain form.
    """
    if value is None or isinstance(value, (bool, torch.Tensor)):
        return value
    for kind in (int, float, str):  # also their subclasses, numpy's included
        if isinstance(value, kind):
            return kind(value)
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, np.ndarray):
        return {_ARRAY: torch.from_numpy(np.ascontiguousarray(value))}
    if isinstance(value, BaseDataElement):
        return {
            _ELEMENT: f'{type(value).__module__}:{type(value).__qualname__}',
            'metainfo': plain(dict(value.metainfo_items())),
            'data': plain(dict(value.items()))
        }
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        items = [plain(item) for item in value]
        return items if isinstance(value, list) else tuple(items)
    raise TypeError(f'{type(value).__module__}.{type(value).__qualname__} '
                    'has no plain form')


def unplain(value: Any) -> Any:
    """The inverse of :func:`plain`.

    Raises:
        ValueError: If a class is named that no data sample has.
    """
    if isinstance(value, dict):
        if _ARRAY in value:
            return value[_ARRAY].numpy()
        if _ELEMENT in value:
            return _element(value)
        return {key: unplain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        items = [unplain(item) for item in value]
        return items if isinstance(value, list) else tuple(items)
    return value


def _element(value: Dict[str, Any]) -> BaseDataElement:
    module, name = value[_ELEMENT].split(':')
    cls: Optional[type] = None
    if module.split('.')[0] in _PACKAGES:
        cls = getattr(importlib.import_module(module), name, None)
    if not (isinstance(cls, type) and issubclass(cls, BaseDataElement)):
        raise ValueError(f'{value[_ELEMENT]} is no class of a data sample.')
    element = cls(metainfo=unplain(value['metainfo']))
    for key, item in unplain(value['data']).items():
        element.set_field(item, key)
    return element
