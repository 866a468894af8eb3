import os.path as osp
from typing import Any, Dict

from ..model_folder import folder_of
from . import hugging_face, timm_folder


def described_folder(checkpoint: str,
                     knows_images: bool = False) -> Dict[str, Any]:
    """Options of a teacher that a checkpoint's folder describes.

    Only its descriptions are read, not the weights.

    Args:
        checkpoint (str): A folder of Hugging Face transformers or of timm,
            or a file in one.
        knows_images (bool): Whether the caller knows mean and std. Defaults
            to False.

    Returns:
        dict[str, Any]: ``model_name`` and ``model_kwargs`` of timm by its
        ``config.json`` and, unless they are known, ``mean`` and ``std`` for
        pixel values from 0 to 255 by its ``preprocessor_config.json`` (of
        timm, by ``config.json`` as well); all plain data.

    Raises:
        FileNotFoundError: If it is not there.
        ValueError: If it does not describe an architecture, or one that
            cannot be converted, or not the images.
    """
    folder = folder_of(checkpoint)
    if folder is None:
        raise FileNotFoundError(
            f'checkpoint={checkpoint!r} is not there. Without model_name, the '
            'architecture is read from the config.json in that folder. '
            'Correct the path, or give model_name and model_kwargs: the '
            'config.py that a training has written into its work dir has '
            'them')
    path = osp.join(folder, 'config.json')
    found = timm_folder.described(folder, path)
    if found is None:
        built = hugging_face.described(folder)
        if built is None:
            raise ValueError(
                f'checkpoint={checkpoint!r} without model_name: there is no '
                f'config.json of Hugging Face transformers or of timm in '
                f'{folder} that says what it is. Give model_name')
        found = dict(
            model_name=built.model_name,
            model_kwargs=dict(built.model_kwargs))
        mean, std, _ = (None, None, '') if knows_images else (
            hugging_face.images_of(folder))
        if mean is not None:
            found.update(mean=list(mean), std=list(std))
    if knows_images:
        found = {name: found[name] for name in ('model_name', 'model_kwargs')}
    elif 'mean' not in found:
        raise ValueError(
            f'checkpoint={checkpoint!r}: no preprocessor_config.json in that '
            'folder says how its images were normalised. Put it there, or '
            "give the teacher's own, mean=[...] and std=[...] for pixel "
            'values from 0 to 255')
    return found
