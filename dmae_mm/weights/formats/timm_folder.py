"""A folder as timm saves a model for the Hugging Face hub: the weights have
timm's names, and its ``config.json`` says of which model they are."""
import re
from typing import Any, Dict, Optional

from dmae_mm.options import is_finite_number

from ..model_folder import description


def described(folder: str, path: str) -> Optional[Dict[str, Any]]:
    """Options of a teacher that such a ``config.json`` describes.

    Args:
        folder (str): The folder.
        path (str): The path of its config.json, for errors.

    Returns:
        dict[str, Any] | None: ``model_name``, ``model_kwargs`` and, where it
        says them, ``mean`` and ``std`` for pixel values from 0 to 255; None
        if it is none of timm's.

    Raises:
        ValueError: If it makes no sense.
    """
    config = description(folder, 'config.json')
    if config is None or 'architecture' not in config:
        return None
    kwargs = config.get('model_args')
    kwargs = {} if kwargs is None else kwargs
    said = config.get('pretrained_cfg')
    said = said if isinstance(said, dict) else config  # as it was, once
    # 'hf-hub:' in front would ask the hub for another.
    if not re.fullmatch(r'\w+', str(config['architecture'])) or (
            not isinstance(kwargs, dict)):
        raise ValueError(f'{path} says architecture='
                         f'{config["architecture"]!r:.80}, model_args='
                         f'{kwargs!r:.80}: expected are a name of timm, and '
                         'its arguments by name')
    found: Dict[str, Any] = dict(
        model_name=config['architecture'], model_kwargs=dict(kwargs))
    mean, std = said.get('mean'), said.get('std')
    if mean is None or std is None:
        return found
    if not isinstance(mean, list) or not isinstance(std, list) or len(
            mean) != len(std) or not mean or not all(
                map(is_finite_number, [*mean, *std])) or min(std) <= 0:
        raise ValueError(f'{path} says mean={mean!r:.80}, std={std!r:.80}: '
                         'expected is one number a channel, of std above '
                         'zero')
    return dict(
        found,
        mean=[255 * value for value in mean],
        std=[255 * value for value in std])
