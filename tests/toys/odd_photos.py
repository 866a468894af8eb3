"""Photographs as they lie in people's folders."""
from pathlib import Path

import cv2
import numpy as np

from tests.toys.odd_files import broken_files, photo


def write_odd_photos(folder: Path, count: int = 40) -> Path:
    """Write images of odd kinds, two broken ones and a HEIC by its ending.

    Args:
        folder (Path): Is made.
        count (int): Files with endings of images, broken ones included.

    Returns:
        Path: The folder.
    """
    (folder / 'more').mkdir(parents=True)
    for name in ('cut.jpg', 'text.png'):
        (folder / name).write_bytes(broken_files()[name])
    (folder / 'phone.heic').write_bytes(b'ftypheic')
    for index in range(count - 2):
        picture, path = photo(index, 70 + index, 60), folder / f'{index}.png'
        if index == 0:
            picture.convert('L').save(path)
        elif index == 1:
            picture.convert('RGBA').save(path)
        elif index == 2:
            deep = np.asarray(picture.convert('L')).astype(np.uint16) * 257
            cv2.imwrite(str(path), deep)
        elif index == 3:
            picture.resize((5, 4)).save(path)
        elif index == 4:
            picture.convert('P').save(path)
        elif index == 5:
            picture.convert('CMYK').save(path.with_suffix('.jpg'))
        elif index == 6:
            picture.save(path.with_suffix('.webp'))
        else:
            picture.save(folder / 'more' / f'{index}.JPG')
    return folder
