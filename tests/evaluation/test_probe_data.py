"""What the models get to see, and which data sets are refused."""
import cv2
import numpy as np
import pytest
from PIL import Image

from dmae_mm.evaluation import (batches, check_readable, check_splits,
                              labelled_images)
from tests.datasets.folders import write_classes, write_images


def inputs(dataset, **options):
    return [
        image.permute(1, 2, 0).numpy()
        for batch in batches(dataset, **options) for image in batch['inputs']
    ]


def test_images_of_the_right_size_are_not_changed(tmp_path):
    write_images(tmp_path, 'a/1.png', 'b/1.png')
    for name in 'ab':
        pixels = cv2.imread(str(tmp_path / name / '1.png'))[:32, :32]
        cv2.imwrite(str(tmp_path / name / '1.png'), pixels)
    found = inputs(labelled_images(str(tmp_path), 32, crop_pct=1.))
    for name, image in zip('ab', found, strict=True):
        assert np.array_equal(image,
                              cv2.imread(str(tmp_path / name / '1.png')))


def test_resize_and_crop_by_hand(tmp_path):
    """Of 40 x 36 pixels, 36 become round(24 / 0.75) = 32, and 40 36."""
    write_images(tmp_path, 'a/1.png', 'b/1.png')
    image = inputs(labelled_images(str(tmp_path), 24, crop_pct=0.75))[0]
    bgr = cv2.imread(str(tmp_path / 'a' / '1.png'))
    assert bgr.shape == (36, 40, 3)
    wanted = np.array(Image.fromarray(bgr).resize((35, 32), Image.BICUBIC))
    assert np.array_equal(image, wanted[4:28, 6:30])


def test_parts_are_the_whole(tmp_path):
    dataset = labelled_images(write_classes(tmp_path, 2, 3, seed=0), 32)
    whole = inputs(dataset)
    parts = [inputs(dataset, part=(i, 4), batch_size=1) for i in range(4)]
    assert [len(part) for part in parts] == [2, 2, 1, 1]
    for index, image in enumerate(whole):
        assert np.array_equal(image, parts[index % 4][index // 4])
    # Nothing is left for the last of seven: it gets the first image.
    assert np.array_equal(inputs(dataset, part=(6, 7))[0], whole[0])


@pytest.mark.parametrize('crop_pct', [0, -0.5, 1.01])
def test_crops_that_do_not_exist(crop_pct, tmp_path):
    with pytest.raises(ValueError, match=f'crop_pct={crop_pct} is not above'):
        labelled_images(str(tmp_path), 32, crop_pct)


def test_splits_have_to_fit_together(tmp_path):
    train = labelled_images(write_classes(tmp_path / 'a', 2, 3, seed=0), 32)
    other = labelled_images(write_classes(tmp_path / 'b', 3, 1, seed=0), 32)
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
        str(tmp_path / 'a'), 32, list_file=str(tmp_path / 'list.txt'))
    assert len(subset) == 2
    with pytest.raises(ValueError, match='list.txt.* names are of one class'):
        check_splits(subset, train, num_neighbors=1)


def test_files_that_are_no_images_are_named(tmp_path):
    dataset = labelled_images(write_classes(tmp_path, 2, 2, seed=0), 32)
    check_readable(dataset)
    (tmp_path / 'class1' / '0.png').write_text('not an image')
    with pytest.raises(
            ValueError, match='1 of 4 files cannot .*/class1/0.png'):
        check_readable(dataset)
    # What begins like an image is found out when it is decoded.
    png = (tmp_path / 'class0' / '0.png').read_bytes()
    (tmp_path / 'class1' / '0.png').write_bytes(png[:20])
    check_readable(dataset)
    with pytest.raises(
            ValueError, match='/class1/0.png.* cannot be decoded .* Replace'):
        list(batches(dataset))
