import functools
import io
import subprocess
import sys

import cv2
import mmcv
import numpy as np
import pytest
import tifffile
from mmcv.transforms import LoadImageFromFile
from mmengine.logging import MMLogger
from PIL import Image
from torch.utils.data import DataLoader

from dmae_mm.datasets import BadImageError, LoadImageOrSkip
from dmae_mm.datasets.transforms.load_image_or_skip import (is_cut_off,
                                                            read_size)
from tests.toys.band_files import write_tiff
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


def ramp(ending, largest, kind=np.uint16, shape=(64, 64)):
    """A file whose values go evenly from 0 to the largest."""
    values = np.linspace(0, largest, 4096).reshape(shape).astype(kind)
    return cv2.imencode(ending, values)[1].tobytes(), values


@pytest.mark.parametrize('channels', [1, 3])
@pytest.mark.parametrize('ending, kind, largest', [
    ('.png', np.uint16, 4095), ('.tif', np.uint16, 4095),
    ('.pgm', np.uint16, 4095), ('.tif', np.float32, 1),
    ('.tif', np.int16, 4095), ('.png', np.uint16, 65535),
])
def test_a_range_keeps_all_levels(ending, kind, largest, channels):
    data, values = ramp(ending, largest, kind)
    image = LoadImageOrSkip(channels=channels, value_range=(0, largest)).load(
        'a', data)
    wanted = np.rint(values.astype(np.float64) * 255 / largest)
    assert image.dtype == np.uint8 and len(np.unique(image)) == 256
    assert image.shape == (64, 64) + (3, ) * (channels == 3)
    np.testing.assert_array_equal(image.reshape(64, 64, -1)[..., 0], wanted)


@pytest.mark.parametrize('kind', [np.float32, np.float64, np.int32])
def test_colour_of_floats(kind):
    """Grey of colour by OpenCV's weights; colour of grey; alpha is left."""
    bgr = np.random.RandomState(0).randint(0, 4096, (9, 7, 3)).astype(kind)
    rgba = np.dstack([bgr, np.full((9, 7), 7, kind)])
    wanted = np.rint(bgr * (255 / 4095))
    for pixels in (bgr, rgba):
        data = cv2.imencode('.tif', pixels)[1].tobytes()
        options = dict(value_range=(0, 4095))
        image = LoadImageOrSkip(**options).load('a', data)
        np.testing.assert_array_equal(image, wanted)
        grey = LoadImageOrSkip(channels=1, **options).load('a', data)
        by_hand = bgr @ [.114, .587, .299] * (255 / 4095)
        assert abs(grey - by_hand).max() < .51


def test_values_outside_the_range_are_clipped():
    values = np.float32([[-9999, -1, 0, 1, 2, 3, np.inf, -np.inf]])
    data = cv2.imencode('.tif', values)[1].tobytes()
    image = LoadImageOrSkip(channels=1, value_range=(-1, 2)).load('a', data)
    assert image.tolist() == [[0, 0, 85, 170, 255, 255, 255, 0]]


def test_bits_of_one_data_set_may_differ():
    """The range holds for the values, whatever type a file has."""
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    loader = LoadImageOrSkip(channels=1, value_range=(0, 510))
    found = [
        loader.load('a', data.tobytes())
        for data in (cv2.imencode('.tif', values.astype(kind))[1]
                     for kind in (np.uint8, np.uint16, np.float32))
    ]
    assert found[0].max() == 128
    for image in found[1:]:
        np.testing.assert_array_equal(image, found[0])


@pytest.mark.parametrize('value_range, message', [
    (None, r"float32, from 0 to 1: give .* value_range=\(LOW, HIGH\)"),
    ((0, 1), r'no numbers \(NaN\)'),
])
def test_why_floats_are_refused(value_range, message):
    _, values = ramp('.tif', 1, np.float32)
    values[3, 3] = np.nan
    data = cv2.imencode('.tif', values)[1].tobytes()
    with pytest.raises(BadImageError, match=message):
        LoadImageOrSkip(value_range=value_range).load('a', data)


@pytest.mark.parametrize('value_range', [
    (0, 0), (2, 1), 255, (0, 1, 2), (0, float('nan')), ('0', '1')
])
def test_illegal_ranges_are_refused(value_range):
    with pytest.raises(ValueError, match='value_range=.*smaller first'):
        LoadImageOrSkip(value_range=value_range)
    with pytest.raises(ValueError, match='channels=0 is not an int'):
        LoadImageOrSkip(channels=0)


def test_dark_files_of_16_bits_are_told_once(caplog, monkeypatch):
    warnings = []
    monkeypatch.setattr(MMLogger.get_current_instance(), 'warning',
                        warnings.append)
    loader = LoadImageOrSkip()
    for name, largest in (('bright', 65535), ('above', 4096), ('12', 4095),
                          ('10', 1023)):
        data, _ = ramp('.png', largest)
        np.testing.assert_array_equal(
            loader.load(name, data), mmcv.imfrombytes(data))
    warning, = warnings
    assert warning.startswith("'12' has 16 bits, but its largest value is "
                              '4095: at most 16 of 256 levels')
    assert 'value_range=(0, 4095)' in warning
    # With a range, no file is dark but one that cannot be otherwise.
    loader = LoadImageOrSkip(value_range=(0, 4095))
    loader.load('10', data)
    assert len(warnings) == 1
    loader.load('8', encode(photo(), 'PNG'))
    assert "'8' has 8 bits: nearly all of it is black" in warnings[1]


def test_workers_share_the_warning():
    loader = LoadImageOrSkip()
    data, _ = ramp('.png', 4095)
    list(DataLoader([data], batch_size=None, num_workers=1,
                    collate_fn=functools.partial(loader.load, 'a')))
    assert loader._has_warned


BANDS = np.random.RandomState(0).randint(0, 4096, (9, 7, 12))


@pytest.mark.parametrize('channels', [2, 3, 4, 5, 12])
@pytest.mark.parametrize('kind', [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize('options', [
    dict(), dict(compression='deflate'), dict(bigtiff=True),
    dict(byteorder='>'), dict(planarconfig='separate')
])
def test_tiffs_of_any_number_of_channels(channels, kind, options, tmp_path):
    """In the file's order; three are handed on as BGR."""
    values = (BANDS[..., :channels] % 256 if kind == np.uint8 else
              BANDS[..., :channels]).astype(kind)
    planes = options.get('planarconfig') == 'separate'
    write_tiff(tmp_path / 'a.tif',
               np.moveaxis(values, -1, 0) if planes else values, **options)
    high = 255 if kind == np.uint8 else 4095
    image = LoadImageOrSkip(channels=channels, value_range=(0, high)).load(
        str(tmp_path / 'a.tif'))
    wanted = np.rint(values * (255. / high))
    if channels == 3:
        wanted = wanted[..., ::-1]
    np.testing.assert_array_equal(image, wanted)


def test_pages_are_channels(tmp_path):
    values = BANDS[..., :5].astype(np.uint16)
    tifffile.imwrite(tmp_path / 'a.tif', np.moveaxis(values, -1, 0),
                     photometric='minisblack')
    image = LoadImageOrSkip(channels=5).load(str(tmp_path / 'a.tif'))
    np.testing.assert_array_equal(image, values >> 8)


def test_channels_of_pngs():
    """RGBA, and grey with alpha, as they are in the file."""
    values = (BANDS % 256).astype(np.uint8)
    for channels, mode in ((4, 'RGBA'), (2, 'LA')):
        data = encode(Image.fromarray(values[..., :channels], mode), 'PNG')
        np.testing.assert_array_equal(
            LoadImageOrSkip(channels=channels).load('a', data),
            values[..., :channels])


def test_files_of_another_number_of_channels(tmp_path):
    write_tiff(tmp_path / 'a.tif', BANDS[..., :5].astype(np.uint16))
    for channels, message in (
        (4, '5 channels, but channels=4 are wanted'),
        (3, '5 channels that are no colours, but channels=3 are wanted: give '
         'LoadImageOrSkip channels=5')):
        with pytest.raises(BadImageError, match=f'a.tif.*{message}'):
            LoadImageOrSkip(channels=channels)(
                dict(img_path=str(tmp_path / 'a.tif')))
    with pytest.raises(BadImageError, match='3 channels, but channels=5'):
        LoadImageOrSkip(channels=5).load('a', encode(photo(), 'JPEG'))
    data = (tmp_path / 'a.tif').read_bytes()
    for cut in (data[:-100], data[:20]):
        with pytest.raises(BadImageError, match='cut off|no image'):
            LoadImageOrSkip(channels=5).load('a', cut)
    with pytest.raises(BadImageError, match='9 pixels, more than max_pixels='
                       '104 of 5 channels'):
        LoadImageOrSkip(104, channels=5).load('a', data)


def test_without_tifffile(tmp_path, monkeypatch):
    write_tiff(tmp_path / 'a.tif', BANDS[..., :5].astype(np.uint16))
    monkeypatch.setitem(sys.modules, 'tifffile', None)
    with pytest.raises(ImportError, match='pip install "dmae_mm.tiff'):
        LoadImageOrSkip(channels=5).load(str(tmp_path / 'a.tif'))
