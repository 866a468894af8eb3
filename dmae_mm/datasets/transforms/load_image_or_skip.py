import io
import struct
from typing import List, Optional, Tuple

import mmcv
import mmengine.fileio as fileio
import numpy as np
from mmcv.transforms import BaseTransform
from mmpretrain.registry import TRANSFORMS
from PIL import Image

from dmae_mm.options import is_finite_number, reject_unknown_options

# What an image of 3 channels may take in memory: 256 MiB. Pillow warns of a
# decompression bomb from here on.
MAX_PIXELS = 2**28 // 3
# As many broken files in a row are no accident.
MAX_IN_A_ROW = 100


class BadImageError(ValueError):
    """A file that cannot be used as an image; says why."""


@TRANSFORMS.register_module()
@reject_unknown_options
class LoadImageOrSkip(BaseTransform):
    """Decodes an image as mmcv does; a broken file can be skipped.

    The pixels are those of mmcv's ``LoadImageFromFile``: OpenCV decodes, by
    the file's contents rather than its name, to 8 bits and BGR, and turns the
    image as its EXIF data say. Beyond that, a file is refused if it is cut
    off, or if its header names more pixels than ``max_pixels``, and then
    nothing is decoded.

    A refused file is an error that names it, unless ``SkippedImagesHook`` is
    there to count: the hook sets ``skip``. The transform then returns None,
    upon which mmengine's data sets draw another image, and the image that is
    found at last carries the names of the files before it.

    Required keys: ``img_path``, and ``img_bytes``, the whole file, where it
    has been read already (it is removed). Added keys: ``img`` (H x W x 3,
    uint8, BGR), ``img_shape``, ``ori_shape``, and, if files were skipped,
    ``skipped_images``, a list of (``img_path``, reason).

    Args:
        max_pixels (int): Largest width times height. Defaults to 89,478,485,
            an image of 256 MiB. At most twice as much, where Pillow, which
            reads the headers, ends.

    Raises:
        ValueError: If ``max_pixels`` is not legal.
        BadImageError: When a file cannot be used and ``skip`` is False, or
            when it is one of 100 in a row.
    """

    def __init__(self, max_pixels: int = MAX_PIXELS) -> None:
        if (not is_finite_number(max_pixels)
                or not 1 <= max_pixels <= 2 * MAX_PIXELS):
            raise ValueError(f'LoadImageOrSkip: max_pixels={max_pixels!r} is '
                             f'not a number from 1 to {2 * MAX_PIXELS}.')
        self.max_pixels = max_pixels
        self.skip = False
        self._skipped: List[Tuple[str, str]] = []

    def transform(self, results: dict) -> Optional[dict]:
        """Load the image.

        Args:
            results (dict): The sample.

        Returns:
            dict or None: The sample with its image; None for a broken file.
        """
        path = results['img_path']
        try:
            image = self.load(path, results.pop('img_bytes', None))
        except BadImageError as error:
            self._skipped.append((path, str(error)))
            self._check()
            return None
        results['img'] = image
        results['img_shape'] = results['ori_shape'] = image.shape[:2]
        if self._skipped:
            results['skipped_images'], self._skipped = self._skipped, []
        return results

    def _check(self) -> None:
        if self.skip and len(self._skipped) < MAX_IN_A_ROW:
            return
        (path, reason), number = self._skipped[-1], len(self._skipped)
        self._skipped = []
        if not self.skip:
            raise BadImageError(
                f'{path!r} cannot be used: {reason}. Repair or remove the '
                'file, or skip such files: custom_hooks with '
                "dict(type='SkippedImagesHook').")
        raise BadImageError(
            f'{number} files in a row cannot be used; the last is {path!r}: '
            f'{reason}. Are these images, and is the storage sound?')

    def load(self,
             path: str,
             data: Optional[bytes] = None,
             color_type: str = 'color') -> np.ndarray:
        """Decode one file, or say what is wrong with it.

        Args:
            path (str): Its path or URL, or a name if ``data`` is given.
            data (bytes, optional): Its content. Defaults to None: it is read.
            color_type (str): As of mmcv's ``imfrombytes``. Defaults to
                'color'.

        Returns:
            np.ndarray: (H, W, 3), BGR, uint8; (H, W) for 'grayscale'.

        Raises:
            BadImageError: With the reason.
        """
        if data is None:
            try:
                data = fileio.get(path)
            except OSError as error:
                raise BadImageError(
                    f'not readable ({error.strerror or error})') from error
        width, height = read_size(data)
        if width * height > self.max_pixels:
            raise BadImageError(f'{width} x {height} pixels, more than '
                                f'max_pixels={self.max_pixels}')
        # Older versions of OpenCV make the missing part grey.
        image = None if is_cut_off(data) else mmcv.imfrombytes(
            data, color_type)
        if image is None:
            raise BadImageError('cut off, damaged or of an unknown kind')
        return image

    def __repr__(self) -> str:
        return f'{type(self).__name__}(max_pixels={self.max_pixels})'


def read_size(data: bytes) -> Tuple[int, int]:
    """Width and height that a file's header names; nothing is decoded.

    Args:
        data (bytes): The file.

    Returns:
        tuple[int, int]: Width and height in pixels.

    Raises:
        BadImageError: If the file is empty or no known image.
    """
    if not data:
        raise BadImageError('empty file')
    try:
        # Pillow refuses some that OpenCV reads, with stray bytes in the
        # header, and takes ten times as long.
        if data.startswith(b'\xff\xd8'):
            return _read_jpeg_size(data)
        with Image.open(io.BytesIO(data)) as image:
            return image.size
    except Image.DecompressionBombError as error:
        raise BadImageError(str(error).rstrip('.')) from error
    except Exception as error:  # of many kinds, from Pillow's many readers
        raise BadImageError('no image that Pillow or OpenCV reads') from error


def _read_jpeg_size(data: bytes) -> Tuple[int, int]:
    """From the first "start of frame" among the segments of the header."""
    start = 2
    while True:
        fill, marker, length = struct.unpack_from('>BBH', data, start)
        # 0xC0 to 0xCF are frames, but for three kinds of tables.
        if fill != 0xFF or marker == 0xFF:  # what is no marker is passed over
            start += 1
        elif marker <= 0x01 or 0xD0 <= marker <= 0xD8:  # have no content
            start += 2
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from('>HH', data, start + 5)
            return width, height
        else:
            start += 2 + length


def is_cut_off(data: bytes) -> bool:
    """Whether the end of a JPEG file is missing.

    Args:
        data (bytes): The file. What follows the image's end does not matter,
            nor do pictures in its header.

    Returns:
        bool: True for a JPEG whose last scan has no end. False for other
        formats, whose decoders notice it.
    """
    return (data.startswith(b'\xff\xd8') and not data.endswith(b'\xff\xd9')
            and data.rfind(b'\xff\xd9') < data.rfind(b'\xff\xda'))
