"""Load a checkpoint file without executing anything in it."""
import contextlib
import os
import pickle
import pickletools
import re
import threading
import zipfile
from typing import Any, Iterator, List, Sequence, Tuple

import safetensors
import torch

from dmae_mm.messages import first_few

from .plain_objects import PLAIN_OBJECTS, finished


class RefusedFile(ValueError):
    """A checkpoint is damaged, or would have to be executed to be read."""


class _Placeholder:
    """Stands for an object beside the weights; keeps nothing of it."""

    def __new__(cls, *args) -> '_Placeholder':
        return super().__new__(cls)

    def __init__(self, *args) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


# What training frameworks leave beside the weights: logs (mmengine), command
# lines (MAE, timm), versions, paths, numbers of numpy. Where weights alone are
# read, none of it is built: each of these names is read as `_Placeholder`.
# torch's weights-only unpickler refuses all others but its own.
_PLACEHOLDERS = tuple((_Placeholder, name) for _, name in PLAIN_OBJECTS)
Known = Sequence[Tuple[Any, str]]
_SAFE_GLOBALS_LOCK = threading.Lock()

# How torch's messages name what they refuse to build.
_REFUSED = re.compile(r'GLOBAL ([\w.]+) (?:was not|whose module)|'
                      r'``(torch\.[\w.]+)`` must be imported')


def load_without_executing(path: str, shown: str) -> Any:
    """Load the weights of a ``.safetensors`` file or one of ``torch.save``.

    Args:
        path (str): Where the file lies.
        shown (str): What errors call it.

    Returns:
        Any: Its content, tensors on the CPU. Objects that are usual beside
        weights are placeholders.

    Raises:
        RefusedFile: If the file is damaged, or names objects that only
            unpickling could build.
    """
    with _explained(path, shown):
        if path.lower().endswith('.safetensors'):
            return _load_safetensors(path)
        return _load_pickle(path, _PLACEHOLDERS, 'cpu')


def load_training_checkpoint(path: str,
                             shown: str,
                             map_location: Any = 'cpu') -> Any:
    """Load all that a run has left in a file, to resume from it.

    Args:
        path (str): Where the file lies, of ``torch.save``.
        shown (str): What errors call it.
        map_location (Any): Where its tensors go, as for ``torch.load``.
            Defaults to 'cpu'.

    Returns:
        Any: Its content: tensors, numbers, text, containers of them, and
        what :mod:`.plain_objects` builds: arrays of NumPy, histories of
        MMEngine's log, command lines and paths.

    Raises:
        RefusedFile: If the file is damaged, or names other objects.
    """
    with _explained(path, shown):
        return finished(_load_pickle(path, PLAIN_OBJECTS, map_location), {})


@contextlib.contextmanager
def never_unpickle() -> Iterator[None]:
    """Make each ``torch.load`` of this process read tensors only.

    Whoever calls it: a data set, a backbone, a library. It is torch's own
    switch, which workers and processes that are started meanwhile inherit.
    """
    switch, contrary = ('TORCH_FORCE_WEIGHTS_ONLY_LOAD',
                        'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD')
    before = {name: os.environ.pop(name, None) for name in (switch, contrary)}
    os.environ[switch] = '1'
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


@contextlib.contextmanager
def _explained(path: str, shown: str) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError:  # of a device; nothing is wrong with it
        raise
    # Anything can go wrong in the bytes of a damaged file.
    except Exception as error:
        raise RefusedFile(
            f'The checkpoint {shown} {_what_is_wrong(path, error)}') from None


def _load_safetensors(path: str) -> dict:
    with safetensors.safe_open(path, framework='pt', device='cpu') as file:
        content = {name: file.get_tensor(name) for name in file.keys()}
        if file.metadata():
            content['__metadata__'] = file.metadata()
    return content


def _load_pickle(path: str, known: Known, map_location: Any) -> Any:
    _refuse_compressed(path)
    with _only(known):
        return torch.load(path, map_location=map_location, weights_only=True)


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
def _only(known: Known) -> Iterator[None]:
    """Let torch's unpickler know its own names and these.

    What else this process has allowed does not count: with a single
    ``add_safe_globals([getattr])``, as torch itself advises, a file could run
    code.
    """
    with _SAFE_GLOBALS_LOCK:
        allowed_elsewhere = torch.serialization.get_safe_globals()
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(list(known))
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
    if _is_torchscript(path):
        return ('is an archive of TorchScript, a program with weights in it, '
                "such as OpenAI's CLIP files are. Nothing of it was executed. "
                'If you trust its origin, save its weights alone, where '
                'running its code does no harm: '
                "torch.save(torch.jit.load(FILE, 'cpu').state_dict(), "
                "'weights.pth'), and give that file.")
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


def _is_torchscript(path: str) -> bool:
    """Whether it has the parts that torch.jit.save writes."""
    names = []
    with contextlib.suppress(Exception), zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    return any('/code/' in name for name in names) and any(
        name.endswith('/constants.pkl') for name in names)


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
