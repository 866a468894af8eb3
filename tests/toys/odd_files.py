"""Image files that cannot be used, and odd ones that can."""
import io
import struct
import zlib
from pathlib import Path
from typing import Dict

import cv2
import numpy as np
from PIL import Image


def photo(seed: int = 0, width: int = 60, height: int = 44) -> Image.Image:
    """A smooth colour picture."""
    coarse = np.random.RandomState(seed).randint(0, 256, (6, 8, 3))
    return Image.fromarray(coarse.astype(np.uint8)).resize((width, height),
                                                           Image.BICUBIC)


def encode(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG of any size in a few bytes; its pixels do not exist."""

    def chunk(name: bytes, content: bytes) -> bytes:
        check = struct.pack('>I', zlib.crc32(name + content))
        return struct.pack('>I', len(content)) + name + content + check

    return b''.join([
        b'\x89PNG\r\n\x1a\n',
        chunk(b'IHDR', struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)),
        chunk(b'IDAT', zlib.compress(bytes(99))),
        chunk(b'IEND', b'')
    ])


def jpeg_of_size(width: int, height: int) -> bytes:
    """A whole JPEG whose header was changed to another size."""
    data = encode(photo(), 'JPEG')
    old = struct.pack('>HH', 44, 60)
    assert data.count(old) == 1
    return data.replace(old, struct.pack('>HH', height, width))


def broken_files() -> Dict[str, bytes]:
    """Name and content of files that cannot be used."""
    jpeg, png = encode(photo(), 'JPEG'), encode(photo(), 'PNG')
    return {
        'empty.jpg': b'',
        'text.png': b'This is not an image.\n' * 9,
        'cut.jpg': jpeg[:len(jpeg) // 2],
        'cut.png': png[:-20],
        'bomb.png': png_header(60000, 60000),
        'bomb.jpg': jpeg_of_size(65000, 65000),
    }


def odd_files() -> Dict[str, bytes]:
    """Name and content of unusual files that are images all the same."""
    deep = np.random.RandomState(0).randint(0, 65536, (40, 50, 3)).astype(
        np.uint16)
    frames = [photo(seed) for seed in range(3)]
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    return {
        'png_inside.jpg': encode(photo(), 'PNG'),
        'cmyk.jpg': encode(photo().convert('CMYK'), 'JPEG'),
        'grey.jpg': encode(photo().convert('L'), 'JPEG'),
        'progressive.jpg': encode(photo(), 'JPEG', progressive=True),
        'turned.jpg': encode(photo(), 'JPEG', exif=exif),
        'appended.jpg': encode(photo(), 'JPEG') + b'more data',
        '16_bit.png': cv2.imencode('.png', deep)[1].tobytes(),
        '16_bit.tif': cv2.imencode('.tif', deep)[1].tobytes(),
        'palette.png': encode(photo().convert('P'), 'PNG'),
        'transparent.png': encode(photo().convert('RGBA'), 'PNG'),
        'animated.webp': encode(
            frames[0], 'WEBP', save_all=True, append_images=frames[1:]),
        'pages.tif': encode(
            frames[0], 'TIFF', save_all=True, append_images=frames[1:]),
        'one_pixel.png': encode(photo(width=1, height=1), 'PNG'),
        'line.bmp': encode(photo(width=200, height=1), 'BMP'),
        'plain.ppm': encode(photo(), 'PPM'),
    }


def write(folder: Path, files: Dict[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).write_bytes(content)
