import copy

import numpy as np
import pytest
import torch
from mmcv.transforms import RandomFlip
from mmengine.dataset import Compose
from mmpretrain.datasets.transforms import PackInputs, RandomResizedCrop
from mmpretrain.registry import TRANSFORMS
from skimage import data

from dmae_mm.datasets import FastRandomResizedCrop

OPTIONS = dict(scale=224, crop_ratio_range=(0.2, 1.0), interpolation='bicubic')


@pytest.fixture(scope='module')
def photo():
    """Of 300 x 451 pixels, so that some crops shrink and others grow."""
    return np.ascontiguousarray(data.chelsea()[..., ::-1])


def pair(**options):
    return (RandomResizedCrop(backend='pillow', **options),
            FastRandomResizedCrop(**options))


@pytest.mark.parametrize('interpolation', ['bilinear', 'bicubic'])
def test_pixels_are_those_of_pillow(photo, interpolation):
    """Far within 2 of 255 on average, for crops of all sizes."""
    stock, fast = pair(**{**OPTIONS, 'crop_ratio_range': (0.05, 1.0),
                          'interpolation': interpolation})
    differences = []
    for seed in range(12):
        results = []
        for transform in (stock, fast):
            np.random.seed(seed)
            results.append(transform(dict(img=photo)))
        wanted, found = results
        assert found['img_shape'] == wanted['img_shape'] == (224, 224, 3)
        assert found['img'].dtype == np.uint8
        differences.append(
            np.abs(found['img'].astype(int) - wanted['img']))
    assert np.mean(differences) < 0.2
    assert np.max(differences) <= 2


@pytest.mark.parametrize('prob', [0.5, 0.3])
def test_equal_seeds_give_equal_crops_and_flips(photo, prob):
    """Through the whole pipeline, sample after sample."""
    stock, fast = pair(**OPTIONS)
    pipelines = [
        Compose([stock, RandomFlip(prob=prob), PackInputs()]),
        Compose([fast, RandomFlip(prob=prob), PackInputs()]),
        Compose([
            FastRandomResizedCrop(**OPTIONS, flip_prob=prob),
            PackInputs()
        ]),
    ]
    flips, states = [], []
    for pipeline in pipelines:
        np.random.seed(3)
        samples = [pipeline(dict(img=photo)) for _ in range(8)]
        flips.append([s['data_samples'].flip for s in samples])
        states.append(np.random.get_state()[1:3])
        inputs = torch.stack([s['inputs'] for s in samples]).int()
        if pipeline is pipelines[0]:
            wanted = inputs
        assert (inputs - wanted).abs().float().mean() < 0.2
    assert flips[0] == flips[1] == flips[2] and len(set(flips[0])) == 2
    for state in states[1:]:
        assert np.array_equal(state[0], states[0][0])
        assert state[1] == states[0][1]


@pytest.mark.parametrize('shape', [(1, 1, 3), (1, 300, 3), (300, 2, 3),
                                   (40, 36, 1), (40, 36)])
def test_odd_images(shape):
    """Down to a single pixel; the crop is drawn as mmpretrain draws it."""
    image = np.random.RandomState(0).randint(0, 256, shape).astype(np.uint8)
    result = FastRandomResizedCrop(**OPTIONS)(dict(img=image))['img']
    assert result.shape == (224, 224, shape[2] if len(shape) == 3 else 1)
    if shape == (1, 1, 3):
        assert (result == image).all()


def test_views_are_accepted_and_left_alone(photo):
    mirrored = photo[:, ::-1]
    before = photo.copy()
    results = []
    for image in (mirrored, mirrored.copy()):
        np.random.seed(0)
        results.append(FastRandomResizedCrop(**OPTIONS)(dict(img=image)))
    np.testing.assert_array_equal(results[0]['img'], results[1]['img'])
    np.testing.assert_array_equal(photo, before)


def test_packing_does_not_copy(photo):
    """The result lies channel by channel already."""
    result = FastRandomResizedCrop(**OPTIONS)(dict(img=photo))
    packed = PackInputs()(copy.copy(result))['inputs']
    assert packed.shape == (3, 224, 224) and packed.is_contiguous()
    assert packed.data_ptr() == result['img'].ctypes.data


def test_options():
    transform = TRANSFORMS.build(
        dict(type='FastRandomResizedCrop', scale=(32, 48)))
    assert transform.crop_ratio_range == (0.08, 1.0)
    image = np.zeros((50, 60, 3), np.uint8)
    assert transform(dict(img=image))['img'].shape == (32, 48, 3)
    with pytest.raises(ValueError, match="'area'.*'bilinear', 'bicubic'"):
        FastRandomResizedCrop(32, interpolation='area')
    with pytest.raises(ValueError, match='flip_prob=1.5 is not'):
        FastRandomResizedCrop(32, flip_prob=1.5)
    assert repr(FastRandomResizedCrop(32, flip_prob=0.5)).endswith(
        'interpolation=bicubic, backend=pillow, flip_prob=0.5)')
    with pytest.raises(TypeError, match="backend='cv2'"):
        FastRandomResizedCrop(32, backend='cv2')


@pytest.mark.parametrize('channels', [2, 4, 5])
def test_each_channel_is_that_of_a_grey_image(photo, channels):
    """No channel is taken for transparency; (H, W) gives one channel."""
    pixels = np.dstack([photo, photo[::-1]])[..., :channels]
    crop = FastRandomResizedCrop(flip_prob=0.5, **OPTIONS)

    def cropped(image):
        np.random.seed(1)
        return crop(dict(img=image))['img']

    whole = cropped(pixels)
    assert whole.shape == (224, 224, channels) and whole.dtype == np.uint8
    for channel in range(channels):
        alone = cropped(np.ascontiguousarray(pixels[..., channel]))
        assert alone.shape == (224, 224, 1)
        difference = abs(whole[..., channel].astype(int) - alone[..., 0])
        assert difference.max() <= 1
