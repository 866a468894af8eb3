"""Load a checkpoint file without executing anything in it."""
import pickle
import pickletools
import re
import threading
import zipfile
from contextlib import contextmanager
from typing import IO, Any, Iterator, List

import safetensors
import torch


class _Placeholder:
    """Stands for an object beside the weights; keeps nothing of it."""

    def __new__(cls, *args) -> '_Placeholder':
        return super().__new__(cls)

    def __init__(self, *args) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


# What training frameworks leave beside the weights: logs (mmengine), command
# lines (MAE, timm), versions, paths, numbers of numpy. None of it is needed,
# so none of it is built: each of these names is read as `_Placeholder`.
# torch's weights-only unpickler refuses all others but its own.
_PLACEHOLDERS = [(_Placeholder, name) for name in (
    'argparse.Namespace',
    'builtins.getattr',
    'mmengine.logging.history_buffer.HistoryBuffer',
    'numpy._core.multiarray._reconstruct',
    'numpy._core.multiarray.scalar',
    'numpy.core.multiarray._reconstruct',
    'numpy.core.multiarray.scalar',
    'numpy.dtype',
    'numpy.ndarray',
    'pathlib.PosixPath',
    'pathlib.WindowsPath',
    'pathlib._local.PosixPath',
    'pathlib._local.WindowsPath',
    'torch.torch_version.TorchVersion',
)]
_SAFE_GLOBALS_LOCK = threading.Lock()

# How torch's messages name what they refuse to build.
_REFUSED = re.compile(r'GLOBAL (\S+)|``(torch\.[\w.]+)`` must be imported')


def load_without_executing(path: str, shown: str) -> Any:
    """Load a ``.safetensors`` file or one written by ``torch.save``.

    Args:
        path (str): Where the file lies.
        shown (str): What errors call it.

    Returns:
        Any: Its content, tensors on the CPU. Objects that are usual beside
        weights are placeholders.

    Raises:
        ValueError: If the file is damaged, or names objects that only
            unpickling could build.
    """
    load = _load_safetensors if path.lower().endswith(
        '.safetensors') else _load_pickle
    try:
        return load(path)
    # Anything can go wrong in the bytes of a damaged file.
    except Exception as error:
        names = _refused_names(path, error)
        if not names:
            raise ValueError(
                f'The checkpoint {shown} cannot be read '
                f'({type(error).__name__}: {_reason(error)}). It is damaged, '
                'incomplete or not a checkpoint: fetch it again, and compare '
                'its size and checksum with the origin.') from None
        raise ValueError(
            f'The checkpoint {shown} is refused: it asks for '
            f'{", ".join(names[:5])}, and building that could run code from '
            'the file. Nothing was executed. If you trust its origin, load '
            'it where running its code does no harm and save its state dict '
            'alone, with torch.save or safetensors.') from None


def _load_safetensors(path: str) -> dict:
    with safetensors.safe_open(path, framework='pt', device='cpu') as file:
        content = {name: file.get_tensor(name) for name in file.keys()}
        if file.metadata():
            content['__metadata__'] = file.metadata()
    return content


def _load_pickle(path: str) -> Any:
    with _only_placeholders():
        return torch.load(path, map_location='cpu', weights_only=True)


@contextmanager
def _only_placeholders() -> Iterator[None]:
    """Let torch's unpickler know its own names and the placeholders.

    What else this process has allowed does not count: with a single
    ``add_safe_globals([getattr])``, as torch itself advises, a file could run
    code.
    """
    with _SAFE_GLOBALS_LOCK:
        allowed_elsewhere = torch.serialization.get_safe_globals()
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(_PLACEHOLDERS)
        try:
            yield
        finally:
            torch.serialization.clear_safe_globals()
            torch.serialization.add_safe_globals(allowed_elsewhere)


def _reason(error: Exception) -> str:
    """The line of a message that says what happened."""
    lines = [
        line.strip() for line in str(error).splitlines()
        if line.strip() and 'Check the documentation' not in line
    ] or ['']
    # torch puts advice in front of an unpickling error, and a stack of C++
    # calls behind all others.
    return lines[-1 if isinstance(error, pickle.UnpicklingError) else 0]


def _refused_names(path: str, error: Exception) -> List[str]:
    """What a pickle asked for in vain; empty if that was not the error."""
    if not isinstance(error, pickle.UnpicklingError):
        return []
    refused = _REFUSED.search(str(error))
    if refused:
        return [refused.group(1) or refused.group(2)]
    # torch reads nothing but protocol 2, and so cannot say what a pickle of
    # another protocol would have built.
    try:
        if not zipfile.is_zipfile(path):
            with open(path, 'rb') as file:
                return _names_in_newer_pickle(file)
        with zipfile.ZipFile(path) as archive:
            member = next(name for name in archive.namelist()
                          if name.endswith('/data.pkl'))
            with archive.open(member) as file:
                return _names_in_newer_pickle(file)
    # This only words an error, and must not put another in its place.
    except Exception:
        return []


def _names_in_newer_pickle(file: IO[bytes]) -> List[str]:
    """Names in a pickle of protocol 3 or later, which is not loaded."""
    names, strings = [], []
    for opcode, value, _ in pickletools.genops(file):
        if opcode.name == 'PROTO' and value < 3:
            return []
        if opcode.name == 'GLOBAL':
            names.append(value.replace(' ', '.'))
        elif opcode.name == 'STACK_GLOBAL':
            names.append('.'.join(strings[-2:]))
        elif isinstance(value, str):
            strings.append(value)
    return names
