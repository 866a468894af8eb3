"""The photographs of a study as folders."""
import gzip
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from studies import study_data
from studies.study_data import name_of, prepare
from tests.toys.photographs import write_photographs


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def files(folder, split):
    return [path for path in Path(folder, split).glob('*/*')]


def test_folders_and_lists():
    write_photographs(Path('photos'), train=60)
    folder = prepare('photos')
    assert folder == 'data/photos_study'
    assert [len(files(folder, split))
            for split in ('all', 'train', 'test')] == [120, 120, 20]
    found = json.loads(Path(folder, 'images.json').read_text())
    assert (found['all'], found['train'], found['test'],
            found['classes']) == (120, 120, 20, ['a', 'b'])
    image, = {path for path in files(folder, 'test')
              if path.resolve().name == '3.png' and path.parent.name == 'a'}
    assert (cv2.imread(str(image)) == cv2.imread('photos/test/a/3.png')).all()
    for percent, lines in ((1, 2), (10, 12)):
        listed = Path(folder, f'{percent}pct.txt').read_text().splitlines()
        assert len(listed) == lines
        for line in listed:
            path, label = line.split(' ')
            assert Path(folder, 'train', path).is_file()
            assert path.startswith('ab'[int(label)])
    assert prepare('photos/') == folder  # at once


def test_balanced_part_of_many(monkeypatch):
    monkeypatch.setattr(study_data, 'STUDENTS', 110)
    write_photographs(Path('photos'), train=60)
    for index in range(30):  # one class has more
        Path(f'photos/train/a/more{index}.png').write_bytes(
            Path('photos/train/a/1.png').read_bytes())
    folder = prepare('photos')
    assert len(files(folder, 'all')) == 150
    assert [len(list(Path(folder, 'train', name).iterdir()))
            for name in 'ab'] == [55, 55]


def test_held_out_images_are_in_no_training():
    write_photographs(Path('photos'), train=70)
    folder = prepare('photos', held_out=True)
    test = {path.resolve() for path in files(folder, 'test')}
    train = {path.resolve() for path in files(folder, 'train')}
    assert len(test) == 28 and len(train) == 112 and not test & train
    assert {path.parts[-3] for path in test} == {'train'}
    assert {path.resolve() for path in files(folder, 'all')} == test | train


def test_other_sizes_and_grey():
    write_photographs(Path('photos'), size=40)
    cv2.imwrite('photos/train/a/0.png', np.full((50, 90), 7, np.uint8))
    folder = prepare('photos')
    assert {cv2.imread(str(path)).shape
            for path in files(folder, 'train')} == {(32, 32, 3)}
    assert any((cv2.imread(str(path)) == 7).all()
               for path in files(folder, 'train'))


def no_split():
    Path('photos/a').mkdir(parents=True)


def other_classes():
    write_photographs(Path('photos'))
    Path('photos/test/b').rename('photos/test/c')


def sixteen_bits():
    write_photographs(Path('photos'))
    cv2.imwrite('photos/train/a/7.png', np.full((32, 32), 700, np.uint16))


def unreadable():
    write_photographs(Path('photos'))
    Path('photos/test/b/7.png').write_bytes(b'no image')


def too_few():
    write_photographs(Path('photos'), train=49)


@pytest.mark.parametrize('make, message', [
    (no_split, "there is no folder 'photos/train'. Give cifar10 or"),
    (other_classes, "only one of them has 'b', 'c'"),
    (sixteen_bits, 'photos/train/a/7.png has 16 bits a channel'),
    (unreadable, 'photos/test/b/7.png is not readable'),
    (too_few, "at least 50 images of each class .* 'a' 49, 'b' 49"),
])
def test_bad_input(make, message):
    make()
    with pytest.raises((FileNotFoundError, ValueError), match=message):
        prepare('photos')
    assert not Path('data/photos_study').exists()


def test_another_folder_of_the_same_name():
    write_photographs(Path('photos'))
    write_photographs(Path('other/photos'))
    prepare('photos')
    with pytest.raises(ValueError, match='holds the images of .*/photos'):
        prepare('other/photos')


def test_fashion_mnist_of_debian(monkeypatch):
    random = np.random.RandomState(0)
    Path('debian').mkdir()
    labels = np.repeat(np.arange(10), 50).astype(np.uint8)
    for stem in ('train', 't10k'):
        images = random.randint(0, 256, (500, 28, 28), np.uint8)
        for kind, header, content in (('images-idx3', 16, images),
                                      ('labels-idx1', 8, labels)):
            with gzip.open(f'debian/{stem}-{kind}-ubyte.gz', 'wb') as file:
                file.write(b'\0' * header + content.tobytes())
    monkeypatch.setattr(study_data, 'DEBIAN', 'debian')
    folder = study_data.fetch('fashion-mnist')
    assert len(files(folder, 'train')) == len(files(folder, 'test')) == 500
    assert (cv2.imread(f'{folder}/test/T-shirt-top/00003.png', 0) == images[3]
            ).all()
    assert name_of('fashion-mnist') == 'fashion-mnist'


def test_nothing_can_be_fetched(monkeypatch):

    def fail(split):
        raise OSError('no network')

    monkeypatch.setattr(study_data, '_cifar10', fail)
    with pytest.raises(FileNotFoundError, match='no network.* Give a folder'):
        prepare('cifar10')
