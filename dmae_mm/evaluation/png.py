"""Pictures as files."""
import os
import os.path as osp
import tempfile

import cv2
import numpy as np


def check_png(path: str) -> None:
    """Find out before the work whether a picture can be written.

    Args:
        path (str): Of the file. Its folder is made if it does not exist.

    Raises:
        ValueError: If it is not the name of a ``.png`` file.
        OSError: If the folder cannot be written to.
    """
    if not path.lower().endswith('.png') or osp.isdir(path):
        raise ValueError(f'--out {path!r} is not the name of a .png file.')
    folder = osp.dirname(osp.abspath(path))
    os.makedirs(folder, exist_ok=True)
    tempfile.TemporaryFile(dir=folder).close()


def write_png(path: str, picture: np.ndarray) -> None:
    """Write a picture.

    Args:
        path (str): The file.
        picture (np.ndarray): (height, width, 3), uint8, RGB.

    Raises:
        OSError: If it cannot be written.
    """
    png = cv2.imencode('.png', picture[..., ::-1])[1]
    with open(path, 'wb') as file:
        file.write(png.tobytes())
