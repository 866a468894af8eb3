"""What all formats have in common."""
import inspect
from abc import ABCMeta, abstractmethod
from typing import Any, Dict, List, Sequence, Tuple, Union

import torch
import torch.nn as nn

from dmae_mm.host import build
from dmae_mm.messages import first_few

from ..origin import origin_of
from ..tensor_file import (Tensors, check_replaceable, read_tensor_file,
                           save_tensors)
from ..transfer import MISSED, compare
from .trained_model import TrainedModel
from .vit_architecture import NamedArchitecture

# Any value but 0 and None builds layer scale; the file then fills it.
SOME_LAYER_SCALE = 1e-5


class ExportFormat(metaclass=ABCMeta):
    """One model as others have it.

    Args:
        model (TrainedModel): The model.

    Attributes:
        endings (tuple[str, ...]): How the file's name may end.
        batch_sizes (tuple[int, ...]): Of the images with which a written
            file is tried.
        tensors (dict[str, torch.Tensor]): What the file holds.
        left_out (list[str]): What of the backbone is not in it.
        notes (list[str]): What its user must know.
        loaded_by (str): What loads the file in :meth:`outputs`.

    Raises:
        ValueError: If the format cannot express the model.
    """
    endings: Tuple[str, ...] = ('.pth', '.safetensors')
    batch_sizes: Tuple[int, ...] = (1, )
    scope = 'mmpretrain'  # whose registry has the data preprocessor
    takes_names = False  # whether it can express a NamedArchitecture
    tensors: Tensors
    loaded_by: str

    def __init__(self, model: TrainedModel) -> None:
        if isinstance(model.arch,
                      NamedArchitecture) and not self.takes_names:
            raise ValueError(
                f"timm's {model.arch.model_name} is no plain vision "
                f'transformer ({model.arch.reason.rstrip(".")}), which is all '
                'that can be expressed in this format. --to timm can.')
        self.left_out: List[str] = []
        self.notes: List[str] = []
        self.origin = model.origin
        if self.origin.mean is None:
            self.notes.append(
                'neither the config (model.data_preprocessor) nor the file '
                'says how images are normalised: whoever loads it must know')

    @classmethod
    def check_destination(cls, path: str, to: str, overwrite: bool,
                          source: str) -> None:
        """Raise what would prevent writing, before anything is read.

        Args:
            path (str): What is to be written.
            to (str): The name of this format, for messages.
            overwrite (bool): Whether it may be replaced.
            source (str): The checkpoint, which is never replaced.

        Raises:
            FileExistsError: If something is there that must not be replaced.
            ValueError: If it cannot be a file of this format, or a package
                is missing that writes it.
        """
        if not path.endswith(cls.endings):
            raise ValueError(f'{path} must end in {" or ".join(cls.endings)} '
                             f'to be read by {to}.')
        check_replaceable(path, overwrite, source)

    def save(self, path: str, meta: Dict[str, Any]) -> None:
        """Write the model.

        Args:
            path (str): Where nothing is, or what an earlier call wrote.
            meta (dict): What is to be said of it.
        """
        save_tensors(path, self.tensors, meta)

    def expected(self, model: TrainedModel, images: torch.Tensor) -> Tensors:
        """What :meth:`outputs` has to be, of the trained model itself."""
        return model.outputs(images)

    @abstractmethod
    def usage(self, path: str) -> str:
        """The code that loads the file at ``path``."""

    @abstractmethod
    def outputs(self, path: str, images: torch.Tensor) -> Tensors:
        """Load the file at ``path`` as in :meth:`usage`, and run the model.

        Returns:
            dict[str, torch.Tensor]: For images, (B, C, H, W), some of the
            outputs of a :class:`TrainedModel`, under the same names.
        """


    def data_preprocessor(self) -> str:
        """The line of a config that normalises images for the model; '' if
        there is none."""
        cfg = self._data_preprocessor()
        return f'data_preprocessor={as_code(cfg)}' if cfg else ''

    def check_preprocessing(self, path: str) -> None:
        """Raise ``ValueError`` if images would be normalised otherwise than
        in training by who loads the file as printed."""
        cfg = self._data_preprocessor()
        if not cfg:
            return
        module = build(cfg, self.loaded_by, self.scope)
        self._compare_preprocessing(
            *(module.get_buffer(name).flatten().tolist()
              for name in ('mean', 'std')), 1e-4)

    def _data_preprocessor(self) -> Dict[str, Any]:
        """Its config; {} if it is not known or not needed."""
        return {}

    def _compare_preprocessing(self, mean: Sequence[float],
                               std: Sequence[float],
                               tolerance: float) -> None:
        for wanted, found in ((self.origin.mean, mean),
                              (self.origin.std, std)):
            if len(found) != len(wanted) or any(
                    abs(a - b) > tolerance for a, b in zip(found, wanted)):
                raise ValueError(
                    f'images would be normalised by {list(mean)} and '
                    f'{list(std)} instead of {list(self.origin.mean)} and '
                    f'{list(self.origin.std)}')


def check_loaded(model: nn.Module, path: str, prefix: str = '') -> None:
    """MMEngine loads non-strictly: find what it did not load.

    Args:
        model (nn.Module): What was to be filled.
        path (str): The file.
        prefix (str): What the file's names begin with.

    Raises:
        ValueError: If not all of the file is in the model, or not all of the
            model in the file, but for what no file has to have.
    """
    file = read_tensor_file(path)
    transfer = compare(model, file.tensors, prefix, origin_of(file.meta))
    wrong = [
        *transfer.names(*MISSED), *transfer.lost,
        *transfer.dropped, *transfer.beside
    ]
    if wrong:
        raise ValueError(f'{type(model).__name__} did not load '
                         f'{first_few(sorted(wrong))}.')


def as_code(cfg: Any) -> str:
    """Like ``repr``, but dicts as configs have them."""
    if not isinstance(cfg, dict):
        return repr(cfg)
    items = (f'{key}={as_code(value)}' for key, value in cfg.items())
    return f'dict({", ".join(items)})'


def unlike_defaults(settings: Dict[str, Any], cls: type,
                    **other_defaults: Any) -> Dict[str, Any]:
    """The arguments of ``cls`` that have to be given."""
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(cls).parameters.items()
    }
    defaults.update(other_defaults)
    return {
        name: value
        for name, value in settings.items()
        if name not in defaults or value != defaults[name]
    }


def int_if_square(size: Tuple[int, int]) -> Union[int, Tuple[int, int]]:
    return size[0] if size[0] == size[1] else size
