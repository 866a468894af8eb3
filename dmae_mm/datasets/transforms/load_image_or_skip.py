import io
import struct
from typing import List, Optional, Sequence, Tuple

import cv2
import mmcv
import mmengine.fileio as fileio
import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmengine.logging import MMLogger
from mmpretrain.registry import TRANSFORMS
from PIL import Image

from dmae_mm.messages import one_line
from dmae_mm.options import is_finite_number, reject_unknown_options

from .tiff import TiffHeader, is_tiff, read_bands

# What an image of 3 channels may take in memory: 256 MiB. Pillow warns of a
# decompression bomb from here on.
MAX_PIXELS = 2**28 // 3
# As many broken files in a row are no accident.
MAX_IN_A_ROW = 100
# A file whose values use less than this part of their range is warned of.
DARK = 1 / 16
# How OpenCV is asked for 1 channel and for 3.
_FLAGS = {1: cv2.IMREAD_GRAYSCALE, 3: cv2.IMREAD_COLOR}


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
    has been read already (it is removed). Added keys: ``img`` (H x W x C, or
    H x W for one channel; uint8), ``img_shape``, ``ori_shape``, and, if files
    were skipped, ``skipped_images``, a list of (``img_path``, reason).

    Args:
        max_pixels (int): Largest width times height. Defaults to 89,478,485,
            an image of 256 MiB. At most twice as much, where Pillow, which
            reads the headers, ends.
        channels (int): 3 turns every file into colour, BGR; 1 into grey. Any
            other number takes the channels of the file as they are, in its
            order and not turned by EXIF data, and refuses a file of another
            number: PNG and WebP of 4 (RGBA), PNG of 2 (grey and alpha), and
            TIFF of any number, which needs ``tifffile``. Defaults to 3.
        value_range (tuple[float, float], optional): (low, high), the values
            that become 0 and 255, for all files alike, of whatever bits or
            floats. Values between are scaled linearly and rounded, those
            outside are clipped; a file with NaN is refused. Defaults to None:
            8 bits are taken as they are, 16 bits are reduced to their upper
            8, and files of other values are refused. A warning, once, names
            a file of 16 bits that uses a sixteenth of its range or less.

    Raises:
        ValueError: If an option is not legal.
        BadImageError: When a file cannot be used and ``skip`` is False, or
            when it is one of 100 in a row.
        ImportError: If a TIFF needs ``tifffile`` and it is not installed.
    """

    def __init__(self,
                 max_pixels: int = MAX_PIXELS,
                 channels: int = 3,
                 value_range: Optional[Sequence[float]] = None) -> None:
        if (not is_finite_number(max_pixels)
                or not 1 <= max_pixels <= 2 * MAX_PIXELS):
            raise ValueError(f'LoadImageOrSkip: max_pixels={max_pixels!r} is '
                             f'not a number from 1 to {2 * MAX_PIXELS}.')
        if type(channels) is not int or channels < 1:
            raise ValueError(f'LoadImageOrSkip: channels={channels!r} is not '
                             'an int of at least 1.')
        if value_range is not None and not (
                isinstance(value_range, (list, tuple))
                and len(value_range) == 2
                and all(map(is_finite_number, value_range))
                and value_range[0] < value_range[1]):
            raise ValueError(
                f'LoadImageOrSkip: value_range={value_range!r} is not two '
                'finite numbers, the smaller first: the values that become 0 '
                'and 255, (0, 4095) for 12 bits.')
        self.max_pixels = max_pixels
        self.channels = channels
        self.value_range = value_range and tuple(value_range)
        self.skip = False
        self._skipped: List[Tuple[str, str]] = []
        # In memory that the workers of a data loader share.
        self._has_warned = torch.zeros(1, dtype=torch.bool).share_memory_()

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

    def load(self, path: str, data: Optional[bytes] = None) -> np.ndarray:
        """Decode one file, or say what is wrong with it.

        Args:
            path (str): Its path or URL, or a name if ``data`` is given.
            data (bytes, optional): Its content. Defaults to None: it is read.

        Returns:
            np.ndarray: (H, W, channels), uint8; (H, W) for one channel.

        Raises:
            BadImageError: With the reason.
        """
        if data is None:
            data = read_file(path)
        image = self.decode(data)
        if self.value_range is not None:
            return self._scaled(path, image)
        if image.dtype == np.uint8:
            return image
        self._warn_if_dark(path, int(image.max()))
        if self.channels in _FLAGS and not (
                is_tiff(data) and TiffHeader.of(data).has_bands):
            return mmcv.imfrombytes(
                data, _FLAGS[self.channels], backend='cv2')
        return (image >> 8).astype(np.uint8)

    def decode(self, data: bytes) -> np.ndarray:
        """Decode one file with all its bits, or say what is wrong with it.

        Args:
            data (bytes): Its content.

        Returns:
            np.ndarray: (H, W, channels), or (H, W) for one channel; uint8 or
            uint16, or of any type if there is a ``value_range``.

        Raises:
            BadImageError: With the reason.
        """
        width, height = read_size(data)
        # Of more than 3 channels, fewer pixels have room.
        if width * height * max(self.channels, 3) > 3 * self.max_pixels:
            raise BadImageError(f'{width} x {height} pixels, more than '
                                f'max_pixels={self.max_pixels}' +
                                f' of {self.channels} channels' *
                                (self.channels > 3))
        if is_cut_off(data):  # older OpenCVs make the missing part grey
            raise BadImageError(_DAMAGED)
        image = self._bands(data)
        if image is None:
            image = self._opencv(data)
        if image is None:
            raise BadImageError(_DAMAGED)
        found = 1 if image.ndim == 2 else image.shape[2]
        if found != self.channels:
            raise BadImageError(f'{found} channels, but channels='
                                f'{self.channels} are wanted')
        if self.value_range is None and image.dtype not in (np.uint8,
                                                            np.uint16):
            raise BadImageError(
                f'its values are {image.dtype}, from {np.nanmin(image):g} to '
                f'{np.nanmax(image):g}: give LoadImageOrSkip value_range='
                '(LOW, HIGH), the values that become 0 and 255')
        return image

    def _bands(self, data: bytes) -> Optional[np.ndarray]:
        """The channels of a TIFF file that OpenCV would read wrongly."""
        if not is_tiff(data):
            return None
        header = TiffHeader.of(data)
        if self.channels in _FLAGS:
            if not header.has_bands:
                return None
            if header.channels != self.channels:
                raise BadImageError(
                    f'{header.channels} channels that are no colours, but '
                    f'channels={self.channels} are wanted: give '
                    f'LoadImageOrSkip channels={header.channels}')
        try:
            image = read_bands(data, self.channels)
        except ImportError:
            raise
        except Exception as error:  # of many kinds
            raise BadImageError(
                f'{_DAMAGED} ({one_line(error)})') from error
        return image[..., ::-1] if self.channels == 3 else image

    def _opencv(self, data: bytes) -> Optional[np.ndarray]:
        """What OpenCV reads, with all bits; None if it cannot."""
        if self.channels in _FLAGS:
            if not is_tiff(data) or TiffHeader.of(data).is_plain:
                return mmcv.imfrombytes(
                    data,
                    _FLAGS[self.channels] | cv2.IMREAD_ANYDEPTH,
                    backend='cv2')
            image = mmcv.imfrombytes(data, 'unchanged', backend='cv2')
            return None if image is None else _as_channels(
                image, self.channels)
        image = mmcv.imfrombytes(data, 'unchanged', backend='cv2')
        if image is None or image.ndim == 2:
            return image
        if data.startswith(b'\x89PNG') and data[25] == 4:  # grey and alpha
            return image[..., [0, 3]]
        order = [2, 1, 0, 3][:image.shape[2]]  # RGBA, as in the file
        return np.ascontiguousarray(image[..., order])

    def _scaled(self, path: str, image: np.ndarray) -> np.ndarray:
        low, high = self.value_range
        if image.dtype == np.uint8:
            self._warn_if_dark(path, 255)
        if image.dtype.kind == 'f' and np.isnan(image).any():
            raise BadImageError('some of its values are no numbers (NaN)')
        small = image.dtype.itemsize <= 2 or image.dtype == np.float32
        image = np.subtract(
            image, low, dtype=np.float32 if small else np.float64)
        image *= 255 / (high - low)
        return np.rint(image, out=image).clip(0, 255).astype(np.uint8)

    def _warn_if_dark(self, path: str, largest: int) -> None:
        low, high = self.value_range or (0, 2**16 - 1)
        if largest - low > (high - low) * DARK or self._has_warned:
            return
        self._has_warned.fill_(True)
        if self.value_range is None:
            fitting = max(2**largest.bit_length() - 1, 255)
            said = (
                f'has 16 bits, but its largest value is {largest}: at most '
                f'{(largest >> 8) + 1} of 256 levels are left of it. If the '
                'data set is like it, give LoadImageOrSkip in the pipeline '
                f'value_range=(0, {fitting}), the values that become 0 and '
                '255')
        else:
            said = (f'has 8 bits: nearly all of it is black by value_range='
                    f'{self.value_range} of LoadImageOrSkip, which is for '
                    'files of one kind')
        MMLogger.get_current_instance().warning(
            f'{path!r} {said}. Further files are not named.')

    def __repr__(self) -> str:
        return (f'{type(self).__name__}(max_pixels={self.max_pixels}, '
                f'channels={self.channels}, value_range={self.value_range})')


def _as_channels(image: np.ndarray, channels: int) -> np.ndarray:
    """Grey (H, W) or BGR (H, W, 3) of floats, as OpenCV does with integers.

    What is neither grey nor colour, with or without alpha, stays as it is.
    """
    if image.ndim == 2:
        return image if channels == 1 else np.dstack([image] * 3)
    if image.shape[2] == 4:
        image = image[..., :3]
    if channels == 1 and image.shape[2] == 3:
        return cv2.cvtColor(
            image.astype(np.float32), cv2.COLOR_BGR2GRAY)
    return image


_DAMAGED = 'cut off, damaged or of an unknown kind'


def read_file(path: str) -> bytes:
    """The content of a file or URL.

    Raises:
        BadImageError: If it cannot be read; says why.
    """
    try:
        return fileio.get(path)
    except OSError as error:
        raise BadImageError(
            f'not readable ({error.strerror or error})') from error


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
        # header or many channels, and takes ten times as long.
        if data.startswith(b'\xff\xd8'):
            return _read_jpeg_size(data)
        if is_tiff(data):
            header = TiffHeader.of(data)
            return header.width, header.height
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
