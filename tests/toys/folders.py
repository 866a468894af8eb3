"""Small images in folders."""
from pathlib import Path

import cv2
import numpy as np


def write_images(root: Path, *names: str) -> None:
    """Write an image of 40 x 36 pixels for each name; `name/` is a folder."""
    for index, name in enumerate(names):
        path = root / name
        if name.endswith('/'):
            path.mkdir(parents=True)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.RandomState(index).randint(0, 256, (36, 40, 3))
        assert cv2.imwrite(str(path), pixels.astype(np.uint8))


def write_classes(root: Path, classes: int, images: int, seed: int) -> str:
    """Write images whose colours overlap with those of other classes.

    Returns:
        str: ``root``, with the folders class0, class1, ...
    """
    rng = np.random.RandomState(seed)
    for label in range(classes):
        colour = np.random.RandomState(label).normal(128, 40, 3)
        for index in range(images):
            pixels = (
                colour + rng.normal(0, 40, 3) + rng.normal(0, 40, (40, 48, 3)))
            path = root / f'class{label}' / f'{index}.png'
            path.parent.mkdir(parents=True, exist_ok=True)
            assert cv2.imwrite(
                str(path),
                pixels.clip(0, 255).astype(np.uint8))
    return str(root)
