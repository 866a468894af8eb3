"""TIFF files: their headers, and those of channels that are no colours."""
import io
from dataclasses import dataclass

import numpy as np
from PIL.TiffImagePlugin import ImageFileDirectory_v2

# Tags and values of TIFF 6.0.
_WIDTH, _HEIGHT, _BITS, _MEANING = 256, 257, 258, 262
_SAMPLES, _LAYOUT, _KIND = 277, 284, 339
_GREY, _RGB, _PLANES, _UNSIGNED = (0, 1), 2, 2, 1


def is_tiff(data: bytes) -> bool:
    """Whether a file begins as a TIFF, or a BigTIFF."""
    return data[:4] in (b'II*\0', b'MM\0*', b'II+\0', b'MM\0+')


@dataclass(frozen=True)
class TiffHeader:
    """What the header of a TIFF file says about its first image.

    Attributes:
        width (int): In pixels.
        height (int): In pixels.
        channels (int): Of each pixel.
        has_bands (bool): Whether OpenCV would read it wrongly: it leaves out
            channels that are no colours, and mixes up deep ones that lie one
            after another.
        is_plain (bool): Whether its values are unsigned integers of up to 16
            bits, all that OpenCV turns into colour or grey.
    """
    width: int
    height: int
    channels: int
    has_bands: bool
    is_plain: bool

    @classmethod
    def of(cls, data: bytes) -> 'TiffHeader':
        """Of a file; any error says that it is damaged."""
        file = io.BytesIO(data)
        # BigTIFF has a header of 16 bytes.
        tags = ImageFileDirectory_v2(file.read(16 if b'+' in data[:4] else 8))
        file.seek(tags.next)
        tags.load(file)
        channels = tags.get(_SAMPLES, 1)
        meaning = tags.get(_MEANING)
        bits = tags.get(_BITS, (1, ))[0]
        return cls(
            tags[_WIDTH], tags[_HEIGHT], channels,
            (meaning in _GREY and channels > 2)
            or (meaning == _RGB and
                (channels > 4 or channels == 3 and bits > 8
                 and tags.get(_LAYOUT) == _PLANES)),
            bits <= 16 and tags.get(_KIND, (_UNSIGNED, ))[0] == _UNSIGNED)


def read_bands(data: bytes, channels: int) -> np.ndarray:
    """All channels of a TIFF file, in its order, with their own values.

    Args:
        data (bytes): The file.
        channels (int): How many are wanted. As many pages of one channel
            each are put together; otherwise, the first page is taken.

    Returns:
        np.ndarray: (H, W, C), of any type.

    Raises:
        ImportError: If tifffile is not installed.
        Exception: Whatever tifffile raises.
    """
    try:
        import tifffile
    except ImportError:
        raise ImportError('TIFF files of these channels are read by tifffile:'
                          ' pip install "dmae_mm[tiff]"') from None
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        first = file.pages[0]
        if first.samplesperpixel == 1 and len(file.pages) == channels > 1:
            image = np.stack([page.asarray() for page in file.pages], -1)
        else:
            image = first.asarray()
            if 'S' in first.axes:
                image = np.moveaxis(image, first.axes.index('S'), -1)
    if image.ndim not in (2, 3):
        raise ValueError(f'it has {image.ndim} dimensions')
    native = image.dtype.newbyteorder('=')
    return np.ascontiguousarray(np.atleast_3d(image), native)
