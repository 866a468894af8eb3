"""A tiny data set in COCO's format: photographs with pasted shapes."""
import json
from pathlib import Path
from typing import Dict, List, Tuple

import cv2
import numpy as np
import skimage
from sklearn.datasets import load_sample_images

# Height and width of all images.
SIZE = (96, 128)
CLASSES = ('disk', 'square', 'triangle')
COLOURS = ((30, 30, 220), (220, 160, 20), (40, 200, 40))  # BGR
# Corners around the centre, for a radius of 1. A disk has 24.
CORNERS = tuple(
    np.stack([np.cos(angles), np.sin(angles)], axis=1)
    for angles in (np.arange(24) * np.pi / 12,
                   np.arange(4) * np.pi / 2 + np.pi / 4,
                   np.arange(3) * np.pi * 2 / 3 - np.pi / 2))


def write_coco(root: Path, num_images: int = 6) -> Path:
    """Write ``images/*.jpg`` and ``shapes.json``.

    Each image is a part of a photograph with two or three shapes that do not
    overlap. Masks are polygons, boxes reach around them.
    """
    rng = np.random.default_rng(0)
    photos = [
        cv2.imread(str(Path(skimage.__file__).parent / 'data' / name))
        for name in ('astronaut.png', 'coffee.png', 'chelsea.png')
    ] + [pixels[..., ::-1] for pixels in load_sample_images().images]
    (root / 'images').mkdir(parents=True)
    images, annotations = [], []
    for i in range(num_images):
        pixels, shapes = paste_shapes(photos[i % len(photos)], i, rng)
        name = f'{i:012}.jpg'
        cv2.imwrite(str(root / 'images' / name), pixels)
        images.append(
            dict(id=i, file_name=name, height=SIZE[0], width=SIZE[1]))
        for shape in shapes:
            annotations.append(
                dict(shape, id=len(annotations) + 1, image_id=i, iscrowd=0))
    categories = [dict(id=i + 1, name=name) for i, name in enumerate(CLASSES)]
    (root / 'shapes.json').write_text(
        json.dumps(
            dict(
                images=images,
                annotations=annotations,
                categories=categories)))
    return root


def paste_shapes(photo: np.ndarray, number: int,
                 rng: np.random.Generator) -> Tuple[np.ndarray, List[Dict]]:
    """A part of a photograph with shapes, and their annotations."""
    height, width = SIZE
    top = rng.integers(photo.shape[0] - 2 * height)
    left = rng.integers(photo.shape[1] - 2 * width)
    pixels = cv2.resize(
        photo[top:top + 2 * height, left:left + 2 * width], (width, height),
        interpolation=cv2.INTER_AREA)
    shapes = []
    for place in range(2 + number % 2):  # side by side
        label = (number + place) % len(CLASSES)
        radius = rng.integers(16, 21)
        centre = (21 + 43 * place, rng.integers(22, height - 22))
        corners = np.rint(centre + radius * CORNERS[label]).astype(np.int32)
        cv2.fillPoly(pixels, [corners], COLOURS[label])
        x, y, w, h = cv2.boundingRect(corners)
        shapes.append(
            dict(
                category_id=label + 1,
                bbox=[x, y, w - 1, h - 1],  # from corner to corner
                area=float(cv2.contourArea(corners)),
                segmentation=[corners.ravel().tolist()]))
    return pixels, shapes
