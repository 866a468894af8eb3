"""Images of any number of channels, in folders."""
from pathlib import Path

import numpy as np
import tifffile


def write_tiff(path: Path, pixels: np.ndarray, **options) -> None:
    """Write (H, W, C), of any type, channel beside channel; or (H, W)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if pixels.ndim == 3:
        options.setdefault('planarconfig', 'contig')
    options.setdefault('photometric', 'minisblack')
    tifffile.imwrite(path, pixels, **options)


def write_band_classes(root: Path, classes: int, images: int, channels: int,
                       seed: int) -> str:
    """Write images of 12 bits; classes differ by the levels of channels.

    Returns:
        str: ``root``, with the folders class0, class1, ...
    """
    rng = np.random.RandomState(seed)
    for label in range(classes):
        levels = np.random.RandomState(label).randint(500, 3000, channels)
        for index in range(images):
            pixels = levels + rng.randint(0, 1000, (36, 40, channels))
            pixels = pixels.astype(np.uint16)
            write_tiff(root / f'class{label}' / f'{index}.tif',
                       pixels[..., 0] if channels == 1 else pixels)
    return str(root)
