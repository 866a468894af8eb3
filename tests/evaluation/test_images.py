"""What the models get to see, and which files and data sets are refused."""
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from dmae_mm.datasets import BadImageError, LoadImageOrSkip
from dmae_mm.datasets.folders import image_folder
from dmae_mm.evaluation import check_splits
from dmae_mm.evaluation.images import (EvaluationPipeline, batches,
                                       check_readable, evenly_spread,
                                       labelled_images, paths_of, problems)
from tests.toys.band_files import write_tiff
from tests.toys.folders import write_classes, write_images
from tests.toys.odd_files import broken_files, odd_files, write


def inputs(root, *options, list_file=None, **batching):
    """Images of a folder of classes, as arrays (H, W, C)."""
    dataset = labelled_images(
        str(root), EvaluationPipeline(*options), list_file)
    return [
        image.permute(1, 2, 0).numpy()
        for batch in batches(dataset, **batching) for image in batch['inputs']
    ]


def test_images_of_the_right_size_are_not_changed(tmp_path):
    write_images(tmp_path, 'a/1.png', 'b/1.png')
    for name in 'ab':
        pixels = cv2.imread(str(tmp_path / name / '1.png'))[:32, :32]
        cv2.imwrite(str(tmp_path / name / '1.png'), pixels)
    for name, image in zip('ab', inputs(tmp_path, 32, 1.), strict=True):
        assert np.array_equal(image,
                              cv2.imread(str(tmp_path / name / '1.png')))


def test_resize_and_crop_by_hand(tmp_path):
    """Of 40 x 36 pixels, 36 become round(24 / 0.75) = 32, and 40 36."""
    write_images(tmp_path, 'a/1.png', 'b/1.png')
    image = inputs(tmp_path, 24, 0.75)[0]
    bgr = cv2.imread(str(tmp_path / 'a' / '1.png'))
    assert bgr.shape == (36, 40, 3)
    wanted = np.array(Image.fromarray(bgr).resize((35, 32), Image.BICUBIC))
    assert np.array_equal(image, wanted[4:28, 6:30])


def test_grey_models_see_grey_images(tmp_path):
    write_images(tmp_path, 'a/1.png', 'b/1.png')
    image = inputs(tmp_path, 36, 1., 1)[0]
    grey = cv2.imread(str(tmp_path / 'a' / '1.png'), cv2.IMREAD_GRAYSCALE)
    assert np.array_equal(image[..., 0], grey[:, 2:38])
    convolution = torch.nn.Conv2d(1, 4, 2)
    convolution.img_size = 36
    assert repr(EvaluationPipeline.of(convolution, 1.)) == repr(
        EvaluationPipeline(36, 1., 1))


def test_odd_files_are_images_all_the_same(tmp_path):
    """As mmcv decodes them, whatever their names say."""
    (tmp_path / 'a').mkdir()
    write(tmp_path / 'a', odd_files())
    write_images(tmp_path, 'b/1.png')
    assert len(inputs(tmp_path, 16)) == len(odd_files()) + 1
    check_readable(paths_of(image_folder(str(tmp_path))))


def test_parts_are_the_whole(tmp_path):
    root = write_classes(tmp_path, 2, 3, seed=0)
    state = torch.get_rng_state()
    whole = inputs(root, 32)
    parts = [inputs(root, 32, part=(i, 4), batch_size=1) for i in range(4)]
    assert [len(part) for part in parts] == [2, 2, 1, 1]
    for index, image in enumerate(whole):
        assert np.array_equal(image, parts[index % 4][index // 4])
    # Nothing is left for the last of seven: it gets the first image.
    assert np.array_equal(inputs(root, 32, part=(6, 7))[0], whole[0])
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize('crop_pct', [0, -0.5, 1.01])
def test_crops_that_do_not_exist(crop_pct):
    with pytest.raises(ValueError, match=f'crop_pct={crop_pct} is not above'):
        EvaluationPipeline(32, crop_pct)


def test_splits_have_to_fit_together(tmp_path):
    pipeline = EvaluationPipeline(32)
    train = labelled_images(
        write_classes(tmp_path / 'a', 2, 3, seed=0), pipeline)
    other = labelled_images(
        write_classes(tmp_path / 'b', 3, 1, seed=0), pipeline)
    check_splits(train, train, num_neighbors=6)
    for k in (0, 7):
        with pytest.raises(
                ValueError, match=f'k={k} .* 6 training images.* from 1 to 6'):
            check_splits(train, train, num_neighbors=k)
    with pytest.raises(
            ValueError, match=r"in .*/a: none; only in .*/b: \['class2'\]"):
        check_splits(train, other, num_neighbors=1)
    (tmp_path / 'list.txt').write_text('class1/0.png 1\nclass1/1.png 1\n')
    subset = labelled_images(
        str(tmp_path / 'a'), pipeline, str(tmp_path / 'list.txt'))
    assert len(subset) == 2
    with pytest.raises(ValueError, match='list.txt.* names are of one class'):
        check_splits(subset, train, num_neighbors=1)


def test_evenly_spread():
    assert evenly_spread(10, 3) == [0, 3, 6]
    assert evenly_spread(3, 3) == evenly_spread(3, 4) == [0, 1, 2]


@pytest.mark.parametrize('channels', [1, 3])
def test_broken_files_are_named_with_the_reason(channels, tmp_path):
    """What the training refuses, for the same reason."""
    write_images(tmp_path, 'a.png')
    write(tmp_path, broken_files())
    pipeline = EvaluationPipeline(16, channels=channels)
    assert pipeline.read([str(tmp_path / 'a.png')
                          ])['inputs'][0].shape == (channels, 16, 16)
    for name in broken_files():
        path = str(tmp_path / name)
        with pytest.raises(BadImageError) as refusal:
            LoadImageOrSkip().load(path)
        with pytest.raises(ValueError) as error:
            pipeline.read([path])
        assert str(error.value) == (f'The image {path!r} cannot be decoded: '
                                    f'{refusal.value}. Replace or remove it.')
    with pytest.raises(FileNotFoundError, match='no image .*gone.png'):
        pipeline.read([str(tmp_path / 'gone.png')])
    shutil.rmtree(tmp_path)
    with pytest.raises(FileNotFoundError, match='no folder'):
        image_folder(str(tmp_path))


def test_readable_and_broken_files_are_told_apart(tmp_path):
    write_images(tmp_path / 'sub', 'a.png', 'd.png', 'e.png')
    check_readable(paths_of(image_folder(str(tmp_path))))
    content = broken_files()
    write(tmp_path / 'sub', {'b.jpg': content['cut.jpg'], 'c.png': b''})
    paths = paths_of(image_folder(str(tmp_path)))
    assert [Path(path).name for path in paths] == [
        'a.png', 'b.jpg', 'c.png', 'd.png', 'e.png'
    ]
    before = torch.get_rng_state()
    assert list(problems(paths)) == [
        None, 'cut off, damaged or of an unknown kind', 'empty file', None,
        None
    ]
    with pytest.raises(ValueError, match='2 of 5 files .*b.jpg.*cut off.*'
                       'c.png.*empty file.*Replace or remove'):
        check_readable(paths)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize('workers', [0, 1])
def test_workers_read_if_asked_to(workers, monkeypatch):

    def refuse(loader, *args):
        raise BadImageError(f'by {os.getpid()}')

    monkeypatch.setattr(LoadImageOrSkip, 'load', refuse)
    reason, = problems(['a'], num_workers=workers)
    assert (reason == f'by {os.getpid()}') == (workers == 0)


def test_decoders_may_fail_in_any_way(monkeypatch):

    def fail(loader, *args):
        raise cv2.error('too large')

    monkeypatch.setattr(LoadImageOrSkip, 'load', fail)
    with pytest.raises(ValueError, match="1 of 1 .*'a' .error: too large"):
        check_readable(['a'])


@pytest.mark.parametrize('channels', [2, 4, 5])
def test_each_channel_is_resized_by_itself(channels, tmp_path):
    """As a grey image would be: none is taken for transparency."""
    pixels = np.random.RandomState(0).randint(0, 4096, (36, 40, channels))
    write_tiff(tmp_path / 'a.tif', pixels.astype(np.uint16))
    like = LoadImageOrSkip(value_range=(0, 4095))
    found = EvaluationPipeline(24, 0.75, channels, like).read(
        [str(tmp_path / 'a.tif')])['inputs'][0].numpy()
    assert found.shape == (channels, 24, 24)
    for channel in range(channels):
        grey = np.rint(pixels[..., channel] * (255 / 4095)).astype(np.uint8)
        wanted = np.array(Image.fromarray(grey).resize((35, 32),
                                                       Image.BICUBIC))
        assert np.array_equal(found[channel], wanted[4:28, 6:30])


def test_files_are_refused_as_the_training_refuses_them(tmp_path):
    """By the training's own options: floats need a range."""
    write_tiff(tmp_path / 'a.tif', np.zeros((9, 9), np.float32))
    path = str(tmp_path / 'a.tif')
    assert 'give LoadImageOrSkip value_range' in next(
        iter(problems([path])))
    check_readable([path], loader=LoadImageOrSkip(value_range=(0, 1)))


def test_folders_of_what_is_not_read(tmp_path):
    for name in ('a/1.heic', 'a/2.HEIC', 'b/3.heic', 'b/notes.txt', 'b/.x'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b'x')
    found = 'Found 3 .heic, 1 .txt, 1 hidden, which are not read: convert'
    with pytest.raises(ValueError, match=f'no images .*{found}'):
        image_folder(str(tmp_path))
    with pytest.raises(ValueError, match=f'have no images .*{found}'):
        labelled_images(str(tmp_path), EvaluationPipeline(16))
