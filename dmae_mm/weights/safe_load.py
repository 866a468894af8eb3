"""Load a checkpoint file without executing anything in it."""
import contextlib
import pickle
import pickletools
import re
import threading
import zipfile
from typing import Any, Iterator, List, Tuple

import safetensors
import torch

from dmae_mm.messages import first_few


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
_REFUSED = re.compile(r'GLOBAL ([\w.]+) (?:was not|whose module)|'
                      r'``(torch\.[\w.]+)`` must be imported')


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
        raise ValueError(
            f'The checkpoint {shown} {_what_is_wrong(path, error)}') from None


def _load_safetensors(path: str) -> dict:
    with safetensors.safe_open(path, framework='pt', device='cpu') as file:
        content = {name: file.get_tensor(name) for name in file.keys()}
        if file.metadata():
            content['__metadata__'] = file.metadata()
    return content


def _load_pickle(path: str) -> Any:
    _refuse_compressed(path)
    with _only_placeholders():
        return torch.load(path, map_location='cpu', weights_only=True)


def _refuse_compressed(path: str) -> None:
    """A file of some megabytes must not become gigabytes in memory.

    torch.save stores without compression, but torch.load would expand it.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if member.compress_type != zipfile.ZIP_STORED:
                raise ValueError(
                    f'its member {member.filename} is compressed, which '
                    'torch.save never does')


@contextlib.contextmanager
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


def _what_is_wrong(path: str, error: Exception) -> str:
    """The end of an error message that begins with the checkpoint's name."""
    save_again = (
        'If you trust its origin, load it where running its code does no '
        'harm and save its state dict alone, with torch.save or safetensors.')
    # torch puts a stack of C++ calls behind an error's first line, but advice
    # in front of an unpickling error's cause.
    lines = [
        line.strip() for line in str(error).splitlines()
        if line.strip() and 'Check the documentation' not in line
    ] or ['']
    reason = lines[0]
    if isinstance(error, pickle.UnpicklingError):
        reason = lines[-1]
        protocol, names = _take_apart(path)
        refused = _REFUSED.search(str(error))
        if refused:
            names = [refused.group(1) or refused.group(2)]
        # torch cannot tell what it would have called on a placeholder, nor
        # what is in a pickle of another protocol than its own, 2.
        if names and (refused or protocol > 2 or 'call reduce' in reason):
            return (f'is refused: it asks for {first_few(names, 8)}, and '
                    'building that could run code from the file. Nothing was '
                    f'executed. {save_again}')
        if protocol > 2:
            return (f'is pickled with protocol {protocol}, but only protocol '
                    '2, the one that torch.save uses, can be read without '
                    f'executing anything. {save_again}')
    return (f'cannot be read ({type(error).__name__}: {reason}). It is '
            'damaged, incomplete or not a checkpoint: fetch it again, and '
            'compare its size and checksum with the origin.')


def _take_apart(path: str) -> Tuple[int, List[str]]:
    """Protocol of the pickles in a file, and the names they ask for.

    They are listed, not loaded. Those of torch itself are left out.
    """
    protocol, names, strings = 0, [], []
    # This only words an error, and must not put another in its place.
    with contextlib.suppress(Exception), contextlib.ExitStack() as stack:
        if zipfile.is_zipfile(path):
            archive = stack.enter_context(zipfile.ZipFile(path))
            member = next(name for name in archive.namelist()
                          if name.endswith('/data.pkl'))
            file = stack.enter_context(archive.open(member))
        else:
            file = stack.enter_context(open(path, 'rb'))
        while True:  # until there is no further pickle, which raises
            for opcode, value, _ in pickletools.genops(file):
                if opcode.name == 'PROTO':
                    protocol = max(protocol, value)
                elif opcode.name == 'GLOBAL':
                    names.append(value.replace(' ', '.'))
                elif opcode.name == 'STACK_GLOBAL':
                    names.append('.'.join(strings[-2:]))
                elif isinstance(value, str):
                    strings.append(value)
    names = [
        name for name in dict.fromkeys(names) if re.fullmatch(r'[\w.]+', name)
        and not name.startswith(('torch.', 'collections.'))
    ]
    return protocol, names
