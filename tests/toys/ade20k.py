"""A tiny data set in ADE20K's layout: photographs with pasted shapes."""
from pathlib import Path
from typing import Tuple

import cv2
import numpy as np
import skimage
from sklearn.datasets import load_sample_images

# Height and width of all images.
SIZE = (64, 96)
NUM_TRAINING, NUM_VALIDATION = 8, 4
# Labels as in ADE20K's files: 0 is what nobody looks at, 1 the first class.
IGNORED, PHOTO, DISK, BOX = range(4)
COLOURS = {DISK: (30, 30, 220), BOX: (220, 160, 20)}  # BGR


def write_ade20k(root: Path) -> Path:
    """Write ``images`` and ``annotations``, ``training`` and ``validation``.

    Validation images show other photographs than training images do.
    """
    rng = np.random.default_rng(0)
    photos = [
        cv2.imread(str(Path(skimage.__file__).parent / 'data' / name))
        for name in ('astronaut.png', 'coffee.png', 'motorcycle_left.png')
    ] + [pixels[..., ::-1] for pixels in load_sample_images().images]
    for split, seen, number in (
        ('training', photos[:3], NUM_TRAINING),
        ('validation', photos[3:], NUM_VALIDATION),
    ):
        for kind in ('images', 'annotations'):
            (root / kind / split).mkdir(parents=True)
        for i in range(number):
            image, labels = paste_shapes(seen[i % len(seen)], rng)
            name = f'ADE_{split[:3]}_{i:08}'
            cv2.imwrite(str(root / 'images' / split / f'{name}.jpg'), image)
            cv2.imwrite(
                str(root / 'annotations' / split / f'{name}.png'), labels)
    return root


def paste_shapes(photo: np.ndarray,
                 rng: np.random.Generator) -> Tuple[np.ndarray, np.ndarray]:
    """A part of a photograph with a disk and a box, and its label map."""
    height, width = SIZE
    top = rng.integers(photo.shape[0] - 3 * height)
    left = rng.integers(photo.shape[1] - 3 * width)
    image = cv2.resize(
        photo[top:top + 3 * height, left:left + 3 * width], (width, height),
        interpolation=cv2.INTER_AREA)
    labels = np.full(SIZE, PHOTO, np.uint8)
    centre = (int(rng.integers(14, 34)), int(rng.integers(14, height - 14)))
    corner = (int(rng.integers(46, 66)), int(rng.integers(2, 32)))
    opposite = (corner[0] + 26, corner[1] + 28)
    for target, disk, box in ((image, COLOURS[DISK], COLOURS[BOX]),
                              (labels, DISK, BOX)):
        cv2.circle(target, centre, 12, disk, thickness=-1)
        cv2.rectangle(target, corner, opposite, box, thickness=-1)
    labels[:, -2:] = IGNORED
    return image, labels
