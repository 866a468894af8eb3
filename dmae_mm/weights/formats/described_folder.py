from typing import Any, Dict

from ..model_folder import folder_of
from .hugging_face import CONFIG, described, images_of


def described_folder(checkpoint: str,
                     knows_images: bool = False) -> Dict[str, Any]:
    """Options of a teacher that a checkpoint's folder describes.

    Only its descriptions are read, not the weights.

    Args:
        checkpoint (str): A folder of Hugging Face transformers, or a file in
            one.
        knows_images (bool): Whether the caller knows mean and std. Defaults
            to False.

    Returns:
        dict[str, Any]: ``model_name`` and ``model_kwargs`` of timm by its
        ``config.json`` and, unless they are known, ``mean`` and ``std`` for
        pixel values from 0 to 255 by its ``preprocessor_config.json``; all
        plain data.

    Raises:
        FileNotFoundError: If it is not there.
        ValueError: If it does not describe an architecture, or one that
            cannot be converted, or not the images.
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
    if knows_images:
        return options
    mean, std, _ = images_of(folder)
    if mean is None:
        raise ValueError(
            f'checkpoint={checkpoint!r}: no preprocessor_config.json in that '
            'folder says how its images were normalised. Put it there, or '
            "give the teacher's own, mean=[...] and std=[...] for pixel "
            'values from 0 to 255')
    return dict(options, mean=list(mean), std=list(std))
