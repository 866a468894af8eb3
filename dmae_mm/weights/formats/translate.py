"""Whose file is it? Asked of each library in turn."""
from dataclasses import fields
from typing import Callable, Optional, Tuple

from dmae_mm.messages import one_line

from ..origin import NOT_OF_MAE, normalisation_of
from ..tensor_file import TensorFile
from . import clip, hugging_face, radio, self_supervised, torchvision_vit
from .format import Format, TranslatedFile

# Each gets a file and returns its format, or None if it is of another
# library. It raises ValueError for a file of its library that cannot be
# converted: "it is a Hugging Face CLIP text model".
_LIBRARIES: Tuple[Callable[[TensorFile], Optional[Format]], ...] = (
    hugging_face.recognise, torchvision_vit.recognise, clip.recognise,
    radio.recognise, self_supervised.recognise)


def translate(file: TensorFile) -> TensorFile:
    """A file of another library under timm's names; any other as it is.

    Args:
        file (TensorFile): As :func:`read_tensor_file` returns it.

    Returns:
        TensorFile: A :class:`TranslatedFile`, whose ``meta`` says how it was
        trained as files of this package do; or the same object, if it is of
        none of these libraries.

    Raises:
        ValueError: If it is of one, but not of a vision transformer that
            can be converted. The message says what it is.
    """
    for recognise in _LIBRARIES:
        try:
            found = recognise(file)
        except ValueError as error:
            raise ValueError(f'{file.source} cannot be used: '
                             f'{error}') from None
        except (IndexError, KeyError, RuntimeError, TypeError) as error:
            # Tensors of any shape meet operations for those of a library.
            raise ValueError(
                f'{file.source} cannot be used: its tensors cannot be '
                f'converted ({one_line(error)})') from error
        if found is not None:
            return _translated(file, found)
    return file


def _translated(file: TensorFile, found: Format) -> TranslatedFile:
    values = {entry.name: getattr(file, entry.name) for entry in fields(file)}
    values.update(
        tensors=found.tensors,
        meta=found.origin.as_meta(with_speaker=True),
        ignored=[*file.ignored, *found.ignored])
    translated = TranslatedFile(**values, format=found)
    if normalisation_of(translated).mean is None:
        translated.meta[NOT_OF_MAE] = f'the names of {found.name}'
    return translated
