from typing import Any, Dict

from ..model_folder import folder_of
from .hugging_face import CONFIG, described, images_of


def described_folder(checkpoint: str) -> Dict[str, Any]:
    """Options of a teacher that a checkpoint's folder describes.

    Only its descriptions are read, not the weights.

    Args:
        checkpoint (str): A folder of Hugging Face transformers, or a file in
            one.

    Returns:
        dict[str, Any]: ``model_name`` and ``model_kwargs`` of timm by its
        ``config.json`` and, where its ``preprocessor_config.json`` says
        them, ``mean`` and ``std`` for pixel values from 0 to 255; all plain
        data.

    Raises:
        FileNotFoundError: If it is not there.
        ValueError: If it does not describe an architecture, or one that
            cannot be converted.
    """
    folder = folder_of(checkpoint)
    if folder is None:
        raise FileNotFoundError(
            f'checkpoint={checkpoint!r} is not there. Without model_name, the '
            f'architecture is read from the {CONFIG} in that folder. Correct '
            'the path, or give model_name and model_kwargs: the config.py '
            'that a training has written into its work dir has them')
    built = described(folder)
    if built is None:
        raise ValueError(
            f'checkpoint={checkpoint!r} without model_name: there is no '
            f'{CONFIG} of Hugging Face transformers in {folder} that says '
            'what it is. Give model_name')
    options: Dict[str, Any] = dict(
        model_name=built.model_name, model_kwargs=dict(built.model_kwargs))
    mean, std, _ = images_of(folder)
    if mean is not None:
        options.update(mean=list(mean), std=list(std))
    return options
