"""Which pictures are taken for the same."""
import cv2
import numpy as np
import pytest
from skimage import data

from dmae_mm.datasets.near_duplicates import near_duplicates
from dmae_mm.datasets.opened_image import OpenedImage

NAMES = ('astronaut', 'camera', 'cat', 'coffee', 'moon', 'rocket')


def small(path, pixels, *options):
    assert cv2.imwrite(str(path), pixels, options)
    return OpenedImage.of(str(path)).small


@pytest.fixture(scope='module')
def photographs():
    return [cv2.resize(getattr(data, name)(), (320, 240),
                       interpolation=cv2.INTER_AREA) for name in NAMES]


def test_quality_and_size_do_not_matter(photographs, tmp_path):
    copies = [small(tmp_path / f'{i}.png', pixels)
              for i, pixels in enumerate(photographs)]
    assert near_duplicates(copies) == []
    copies += [small(tmp_path / f'{i}.jpg', pixels,
                     cv2.IMWRITE_JPEG_QUALITY, 50)
               for i, pixels in enumerate(photographs)]
    copies += [small(tmp_path / f'{i}.bmp', cv2.resize(
        pixels, (200, 180), interpolation=cv2.INTER_AREA))
               for i, pixels in enumerate(photographs)]
    assert near_duplicates(copies) == [[i, i + 6, i + 12] for i in range(6)]


def test_crops_and_mirrors_are_other_pictures(photographs, tmp_path):
    for i, pixels in enumerate(photographs):
        assert near_duplicates([
            small(tmp_path / f'{i}.png', pixels),
            small(tmp_path / f'{i} mirrored.png', pixels[:, ::-1]),
            small(tmp_path / f'{i} cropped.png', pixels[12:-12, 16:-16]),
        ]) == []


def test_the_first_of_a_group_is_like_all_others():
    """The angles 0, 3, 6 degrees: the outer two are not alike."""
    x, y = np.zeros((2, 16, 16), np.float32)
    x[::2], x[1::2] = 50, -50
    y[:, ::2], y[:, 1::2] = 50, -50
    turned = [np.cos(angle) * x + np.sin(angle) * y + 128
              for angle in np.radians([0, 3, 6])]  # cos(3°) = 0.9986
    assert near_duplicates(turned) == [[0, 1]]
    assert near_duplicates([turned[1], turned[0], turned[2]]) == [[0, 1, 2]]


def test_flat_pictures_are_not_compared():
    flat = [np.full((16, 16), level, np.float32) for level in (0, 0, 128)]
    assert near_duplicates(flat) == [] == near_duplicates([])


def test_many_are_compared_in_parts():
    rng = np.random.RandomState(0)
    copies = list(rng.randint(0, 256, (1100, 16, 16)).astype(np.float32))
    copies[3], copies[700], copies[1099] = copies[600], copies[601], copies[0]
    assert near_duplicates(copies) == [[0, 1099], [3, 600], [601, 700]]
