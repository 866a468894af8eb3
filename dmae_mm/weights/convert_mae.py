"""A file of MAE or of DMAE's public code becomes one of mmpretrain."""
from typing import Tuple

from dmae_mm.messages import first_few
from dmae_mm.version import __version__

from .names import layout_of, mae_to_mmpretrain
from .origin import NOT_OF_MAE, normalisation_of, signs_of_another_origin
from .tensor_file import (TensorFile, Tensors, check_writable,
                          read_tensor_file, write_tensor_file)


def convert_mae_file(source: str,
                     destination: str,
                     overwrite: bool = False) -> Tuple[TensorFile, Tensors]:
    """Write a file of MAE or of DMAE's public code under mmpretrain's names.

    Args:
        source (str): Path or http(s) URL of a file with an encoder alone, a
            whole model, or a fine-tuned model.
        destination (str): Path that ends in ``.pth`` or ``.safetensors``.
        overwrite (bool): Whether ``destination`` may exist.

    Returns:
        tuple[TensorFile, dict[str, torch.Tensor]]: What was read, and what
        was written.

    Raises:
        FileNotFoundError: If there is no such source.
        FileExistsError: If ``destination`` is the source, or exists without
            ``overwrite``.
        ValueError: If the source is damaged, refused, or not a file of MAE
            or DMAE. Nothing is written then.
        OSError: If reading or writing fails.
    """
    check_writable(destination, overwrite, source)
    file = read_tensor_file(source)
    if layout_of(file.tensors) in ('mmpretrain', 'mmpretrain backbone'):
        raise ValueError(
            f"{source} already has mmpretrain's names "
            f'({next(iter(file.tensors))}, ...). Use it as it is.')
    try:
        tensors = mae_to_mmpretrain(file.tensors)
    except ValueError as error:
        raise ValueError(f'{source} cannot be converted. {error}') from None
    meta = dict(
        source=source,
        sha256=file.sha256,
        converter=f'dmae_mm {__version__}',
        not_carried_over=file.ignored)
    origin = normalisation_of(file)
    signs = signs_of_another_origin(file)
    if origin.mean is not None:
        meta.update(origin.as_meta())
    elif signs:
        meta[NOT_OF_MAE] = first_few(signs)
    write_tensor_file(destination, tensors, meta, overwrite)
    return file, tensors
