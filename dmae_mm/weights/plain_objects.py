"""What a training checkpoint holds beside tensors, built from data alone.

A pickle names functions and calls them. Each name that a checkpoint of
MMEngine, or of another training framework, is known to use stands here for
something of ours that builds a plain object and nothing else: neither NumPy's
own ``__setstate__`` nor Python's ``getattr`` is called by a file.
"""
import argparse
import pathlib
import pickle
import re
import types
from collections import Counter, OrderedDict
from typing import Any, Dict, NoReturn, Tuple

import numpy as np
from mmengine.logging import HistoryBuffer

# Codes of numbers, truth values, text and Python's objects. Not 'V':
# the memory of a structured array is interpreted as a file says.
_DTYPE = re.compile(r'[biufcSUO]\d+')


def refuse(name: str) -> NoReturn:
    """Refuse to build something, in the words of torch's unpickler."""
    raise pickle.UnpicklingError(f'GLOBAL {name} was not expected here')


class _Dtype:
    """A ``numpy.dtype``."""

    def __init__(self, code: str, align: bool = False,
                 copy: bool = False) -> None:
        if not isinstance(code, str) or not _DTYPE.fullmatch(code):
            refuse('numpy.dtype')
        self.value = np.dtype(code)

    def __setstate__(self, state: tuple) -> None:
        """Take the byte order; the rest follows from the code."""
        _, order, *parts = state
        if any(part is not None for part in parts[:3]):
            refuse('numpy.dtype')
        self.value = self.value.newbyteorder(order)


class _Array:
    """A ``numpy.ndarray``; itself what stands for that class."""
    value = None

    def __setstate__(self, state: tuple) -> None:
        """Take the values: bytes, or a list of objects."""
        *_, shape, dtype, column_major, data = state
        dtype = _value_of(dtype)
        if dtype.hasobject:
            flat = np.empty(len(data), object)
            for i, item in enumerate(data):
                flat[i] = item
            self.value = flat.reshape(shape, order='FC'[not column_major])
        else:
            self.value = _from_bytes(shape, dtype, column_major, data)


def _reconstruct(kind: type, shape: tuple, code: bytes) -> _Array:
    """An array without values, as NumPy begins one."""
    if kind is not _Array:
        refuse('numpy._core.multiarray._reconstruct')
    return _Array()


def _scalar(dtype: _Dtype, data: bytes) -> np.generic:
    """A number of NumPy's."""
    dtype = _value_of(dtype)
    if dtype.hasobject:
        refuse('numpy._core.multiarray.scalar')
    return _from_bytes((), dtype, False, data)[()]


def _value_of(dtype: _Dtype) -> np.dtype:
    if type(dtype) is not _Dtype:
        refuse('numpy.dtype')
    return dtype.value


def _from_bytes(shape: tuple, dtype: np.dtype, column_major: bool,
                data: bytes) -> np.ndarray:
    array = np.ndarray(
        shape, dtype, bytes(data), order='F' if column_major else 'C')
    if array.nbytes != len(data):
        raise ValueError(f'{len(data)} bytes for an array of {array.nbytes}')
    return array.copy('K')


class _History:
    """A ``HistoryBuffer``: MMEngine's log of a loss."""
    state: Dict[str, Any] = {}

    def __setstate__(self, state: dict) -> None:
        """Take what it holds.

        A file also lists the methods of the class, which are those of the
        installed one.
        """
        self.state = {
            name: value
            for name, value in state.items() if name != 'statistics_methods'
        }


def _method_of_history(owner: type, name: str) -> None:
    """``getattr``, which a file asks for to list the methods of a history."""
    if owner is not _History:
        refuse('builtins.getattr')


def _empty_bytes(*values: Any) -> bytes:
    """``bytes``, which a file calls for ``b''`` alone."""
    if values:
        refuse('builtins.bytes')
    return b''


# How torch's weights-only unpickler is told: what stands for which name.
PLAIN_OBJECTS: Tuple[Tuple[Any, str], ...] = (
    (argparse.Namespace, 'argparse.Namespace'),
    (_empty_bytes, 'builtins.bytes'),
    (frozenset, 'builtins.frozenset'),
    (_method_of_history, 'builtins.getattr'),
    (slice, 'builtins.slice'),
    (dict, 'mmengine.config.config.ConfigDict'),
    (_History, 'mmengine.logging.history_buffer.HistoryBuffer'),
    (types.SimpleNamespace, 'mmengine.logging.message_hub.MessageHub'),
    # NumPy 2 and NumPy 1.
    (_reconstruct, 'numpy._core.multiarray._reconstruct'),
    (_reconstruct, 'numpy.core.multiarray._reconstruct'),
    (_scalar, 'numpy._core.multiarray.scalar'),
    (_scalar, 'numpy.core.multiarray.scalar'),
    (_Dtype, 'numpy.dtype'),
    (_Array, 'numpy.ndarray'),
    (pathlib.PurePosixPath, 'pathlib.PosixPath'),
    (pathlib.PurePosixPath, 'pathlib._local.PosixPath'),
    (pathlib.PureWindowsPath, 'pathlib.WindowsPath'),
    (pathlib.PureWindowsPath, 'pathlib._local.WindowsPath'),
    (str, 'torch.torch_version.TorchVersion'),
)


def finished(value: Any, done: Dict[int, Tuple[Any, Any]]) -> Any:
    """Put the real objects in the place of those that stood for them.

    Args:
        value (Any): What torch's unpickler has built. Lists, dicts and
            namespaces are changed in place.
        done (dict): Pairs of what was there and what is there now, by id;
            empty at first. What two places shared, they share.

    Returns:
        Any: The object itself, or what takes its place.
    """
    if id(value) in done:
        return done[id(value)][1]
    kind, now = type(value), value
    if kind in (_Dtype, _Array):
        now = value.value
    elif kind is _History:
        now = HistoryBuffer()
    done[id(value)] = value, now
    if kind in (dict, OrderedDict, Counter):
        for name, item in value.items():
            value[name] = finished(item, done)
    elif kind is list:
        value[:] = [finished(item, done) for item in value]
    elif kind is tuple:
        items = tuple(finished(item, done) for item in value)
        if any(new is not old for new, old in zip(items, value)):
            done[id(value)] = value, (now := items)
    elif kind is _History:
        vars(now).update(finished(value.state, done))
    elif kind in (argparse.Namespace, types.SimpleNamespace):
        finished(vars(value), done)
    elif kind is _Array and now is not None and now.dtype.hasobject:
        for i, item in enumerate(now.flat):
            now.flat[i] = finished(item, done)
    return now
