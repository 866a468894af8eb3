import io
import subprocess
import sys

import mmcv
import numpy as np
import pytest
from mmcv.transforms import LoadImageFromFile
from PIL import Image

from dmae_mm.datasets import BadImageError, LoadImageOrSkip
from dmae_mm.datasets.transforms.load_image_or_skip import (is_cut_off,
                                                            read_size)
from tests.toys.odd_files import (broken_files, encode, jpeg_of_size,
                                  odd_files, photo, png_header, write)


@pytest.mark.parametrize('name', odd_files())
def test_it_loads_what_mmcv_loads(name, tmp_path):
    """Whatever is an image is used, and as the stock loader uses it."""
    write(tmp_path, odd_files())
    path = str(tmp_path / name)
    wanted = LoadImageFromFile()(dict(img_path=path))
    loaded = LoadImageOrSkip()(dict(img_path=path))
    assert loaded.keys() == wanted.keys()
    assert loaded['img'].dtype == np.uint8
    np.testing.assert_array_equal(loaded['img'], wanted['img'])
    for key in ('img_path', 'img_shape', 'ori_shape'):
        assert loaded[key] == wanted[key]


def test_exif_data_turn_the_image(tmp_path):
    write(tmp_path, odd_files())
    turned = LoadImageOrSkip()(dict(img_path=str(tmp_path / 'turned.jpg')))
    assert turned['img_shape'] == (60, 44)


def test_bytes_replace_the_file():
    data = odd_files()['png_inside.jpg']
    results = LoadImageOrSkip()(dict(img_path='a.jpg', img_bytes=data))
    np.testing.assert_array_equal(results['img'], mmcv.imfrombytes(data))
    assert 'img_bytes' not in results  # the file's bytes go no further


@pytest.mark.parametrize('name, reason', [
    ('empty.jpg', 'empty file'),
    ('text.png', 'no image'),
    ('cut.jpg', 'cut off'),
    ('cut.png', 'cut off'),
    ('bomb.png', '60000 x 60000|3600000000 pixels'),
    ('bomb.jpg', '65000 x 65000'),
    ('missing.jpg', 'not readable .No such file'),
])
def test_a_broken_file_is_an_error_that_names_it(name, reason, tmp_path):
    write(tmp_path, broken_files())
    with pytest.raises(BadImageError, match=f'{name}.*{reason}'):
        LoadImageOrSkip()(dict(img_path=str(tmp_path / name)))


def test_skipped_files_travel_with_the_next_image(tmp_path):
    write(tmp_path, broken_files())
    write(tmp_path, odd_files())
    loader = LoadImageOrSkip()
    loader.skip = True
    for name in ('empty.jpg', 'cut.jpg'):
        assert loader(dict(img_path=str(tmp_path / name))) is None
    found, following = (
        loader(dict(img_path=str(tmp_path / 'cmyk.jpg'))) for _ in range(2))
    assert [(path.split('/')[-1], reason)
            for path, reason in found['skipped_images']
            ] == [('empty.jpg', 'empty file'),
                  ('cut.jpg', 'cut off, damaged or of an unknown kind')]
    assert 'skipped_images' not in following


def test_nothing_but_broken_files_ends():
    loader = LoadImageOrSkip()
    loader.skip = True
    for _ in range(99):
        assert loader(dict(img_path='a', img_bytes=b'')) is None
    with pytest.raises(BadImageError, match="100 files in a row.*'b': empty"):
        loader(dict(img_path='b', img_bytes=b''))


@pytest.mark.filterwarnings('ignore::PIL.Image.DecompressionBombWarning')
@pytest.mark.parametrize('bomb', [
    png_header(60000, 60000), png_header(12000, 12000),
    jpeg_of_size(65000, 65000)
])
def test_a_bomb_is_never_decoded(bomb, monkeypatch):
    monkeypatch.setattr(mmcv, 'imfrombytes', lambda data: pytest.fail())
    with pytest.raises(BadImageError, match='pixels'):
        LoadImageOrSkip()(dict(img_path='bomb', img_bytes=bomb))


def test_the_limit_is_exact_and_an_option():
    data = encode(photo(width=60, height=44), 'JPEG')
    sample = dict(img_path='a', img_bytes=data)
    LoadImageOrSkip(max_pixels=60 * 44)(dict(sample))
    with pytest.raises(BadImageError, match='60 x 44 .*max_pixels=2639'):
        LoadImageOrSkip(max_pixels=60 * 44 - 1)(dict(sample))


@pytest.mark.parametrize('max_pixels', [0, -5, True, '9', 2**40, float('nan')])
def test_illegal_limits_are_refused(max_pixels):
    with pytest.raises(ValueError, match='max_pixels=.* from 1 to 178956970'):
        LoadImageOrSkip(max_pixels=max_pixels)


def test_sizes_are_those_that_pillow_reads():
    for name, data in odd_files().items():
        with Image.open(io.BytesIO(data)) as image:
            assert read_size(data) == image.size, name
    # Segments, padding and stray bytes before the frame are passed over.
    jpeg = encode(photo(), 'JPEG', exif=b'Exif\0\0' + b'\xff\xc0' * 99)
    for before in (b'\xff' * 5, b'junk', b'\xff\x01', b'\xff\x00\xff\xd0'):
        assert read_size(jpeg[:2] + before + jpeg[2:]) == (60, 44)
    for end in range(len(jpeg) - 1):  # never an endless loop
        try:
            assert read_size(jpeg[:end]) == (60, 44)
        except BadImageError:
            pass


def test_jpegs_that_are_cut_off():
    whole = encode(photo(), 'JPEG')
    thumbnail = encode(photo(), 'JPEG', exif=b'Exif\0\0' + whole)
    for data in (whole, thumbnail, encode(photo(), 'JPEG', progressive=True)):
        assert not is_cut_off(data)
        assert not is_cut_off(data + bytes(999))  # what cameras append
        assert is_cut_off(data[:-1]) and is_cut_off(data[:-200])
    assert not is_cut_off(encode(photo(), 'PNG')[:-9])  # OpenCV notices


@pytest.mark.slow
def test_bombs_take_no_memory(tmp_path):
    """The peak of a process that meets 20 bombs is that of one without."""
    write(tmp_path, broken_files())
    code = f'''
import resource
from dmae_mm.datasets import LoadImageOrSkip
loader = LoadImageOrSkip()
loader.skip = True
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for _ in range(20):
    for name in ('bomb.png', 'bomb.jpg'):
        assert loader(dict(img_path={str(tmp_path)!r} + '/' + name)) is None
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
'''
    output = subprocess.run([sys.executable, '-c', code],
                            capture_output=True, text=True, timeout=120,
                            check=True).stdout
    assert int(output.split()[-1]) < 16 * 1024  # KiB
