"""One image as a look at a folder sees it."""
import functools
import io
from dataclasses import dataclass
from typing import Tuple

import cv2
import numpy as np
from PIL import Image

from .transforms import BadImageError, LoadImageOrSkip
from .transforms.load_image_or_skip import read_file
from .transforms.tiff import TiffHeader, is_tiff

# Pixels on a side of the small grey copy that is compared with others.
SIDE = 16


@dataclass(frozen=True)
class OpenedImage:
    """What is kept of an image after it has been decoded.

    Attributes:
        path (str): Its file.
        size (tuple[int, int]): Height and width in pixels, turned as its
            EXIF data say.
        mode (str): Pillow's name of its kind, such as 'RGB', 'L', 'P' or
            'CMYK'; '5 channels' for a TIFF of channels that are no colours.
        bits (int): Of each value: 8 or 16.
        channels (int): What ``LoadImageOrSkip(channels=...)`` has to be.
        largest (int): Its largest value.
        small (np.ndarray): (16, 16), float32, a grey copy.
    """
    path: str
    size: Tuple[int, int]
    mode: str
    bits: int
    channels: int
    largest: int
    small: np.ndarray

    @classmethod
    def of(cls, path: str) -> 'OpenedImage':
        """Decode a file as the training does.

        Args:
            path (str): The file.

        Returns:
            OpenedImage: Few values; the pixels are not kept.

        Raises:
            BadImageError: If the training cannot use it; says why.
            ImportError: If it is a TIFF that needs ``tifffile``, which is
                not installed.
        """
        data = read_file(path)
        channels = _channels(data)
        pixels = loader(channels).decode(data)
        return cls(
            path,
            pixels.shape[:2],
            _mode(data) if channels == 3 else f'{channels} channels',
            8 * pixels.dtype.itemsize,
            channels,
            int(pixels.max()),
            _small(pixels))


@functools.lru_cache(maxsize=None)
def loader(channels: int) -> LoadImageOrSkip:
    """What decodes files of so many channels."""
    return LoadImageOrSkip(channels=channels)


def _channels(data: bytes) -> int:
    """3, unless it is a TIFF whose channels are no colours."""
    if is_tiff(data):
        try:
            header = TiffHeader.of(data)
        except Exception:  # damaged: the loader says so
            return 3
        if header.has_bands:
            return header.channels
    return 3


def _mode(data: bytes) -> str:
    try:
        with Image.open(io.BytesIO(data)) as image:  # its header only
            return image.mode
    except Exception:  # of many kinds: OpenCV reads some that Pillow does not
        return 'unknown to Pillow'


def _small(pixels: np.ndarray) -> np.ndarray:
    colours = np.ascontiguousarray(np.atleast_3d(pixels)[..., :3])
    # Not at once: the average of what was rounded is finer than its levels.
    larger = cv2.resize(
        colours, (4 * SIDE, 4 * SIDE), interpolation=cv2.INTER_AREA)
    return larger.reshape(SIDE, 4, SIDE, -1).mean((1, 3), dtype=np.float32)


def cannot_be_used(path: str, channels: int) -> str:
    """Why a file fits no training of so many channels.

    Args:
        path (str): A file that can be decoded.
        channels (int): What ``LoadImageOrSkip`` is asked for.

    Returns:
        str: The reason that the training gives; '' if there is none.
    """
    try:
        loader(channels).decode(read_file(path))
    except BadImageError as error:
        return str(error)
    return ''
