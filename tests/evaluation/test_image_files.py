"""Images without labels are those that the probes see."""
import os
import shutil
from pathlib import Path

import pytest
import torch

from dmae_mm.evaluation import labelled_images
from dmae_mm.evaluation.image_files import (ImageFiles, list_images,
                                          list_sound_images, readable_images,
                                          spread)
from dmae_mm.datasets import BadImageError, LoadImageOrSkip
from tests.datasets.folders import write_classes, write_images
from tests.datasets.odd_files import broken_files, write


def test_prepared_as_for_the_probes(tmp_path):
    root = write_classes(tmp_path, 2, 2, seed=0)
    probed = labelled_images(root, 24, crop_pct=0.8)
    paths = list_images(root)
    assert [path.split(root)[1] for path in paths] == [
        f'/class{label}/{index}.png' for label in range(2)
        for index in range(2)
    ]
    files = ImageFiles(paths, 24, crop_pct=0.8)
    for index in range(4):
        assert torch.equal(files[index]['inputs'], probed[index]['inputs'])
        assert files[index]['inputs'].shape == (3, 24, 24)
    assert len(files) == 4
    assert ImageFiles(paths, 24, channels=1)[0]['inputs'].shape == (1, 24, 24)


def test_spread():
    assert spread(10, 3) == [0, 3, 6]
    assert spread(3, 3) == spread(3, 4) == [0, 1, 2]


def test_what_is_wrong_is_named(tmp_path):
    write_images(tmp_path, 'a.png', 'b.txt.png')
    Path(tmp_path / 'b.txt.png').write_text('not an image')
    (tmp_path / 'c.png').touch()
    files = ImageFiles([str(tmp_path / name) for name in
                        ('a.png', 'b.txt.png', 'c.png', 'd.png')], 16)
    files[0]
    for index, name in ((1, 'b.txt.png'), (2, 'c.png')):
        with pytest.raises(ValueError, match=f'{name}.* cannot be decoded'):
            files[index]
    with pytest.raises(FileNotFoundError, match='no image .*d.png'):
        files[3]
    with pytest.raises(ValueError, match='5 channels'):
        ImageFiles([], 16, channels=5)
    with pytest.raises(ValueError, match='crop_pct=0 is not above 0'):
        ImageFiles([], 16, crop_pct=0)
    shutil.rmtree(tmp_path)
    with pytest.raises(FileNotFoundError, match='no folder'):
        list_images(str(tmp_path))


@pytest.mark.parametrize('name, reason', [
    ('empty.jpg', 'empty file'),
    ('cut.jpg', 'cut off, damaged or of an unknown kind'),
    ('bomb.png', 'pixels'),
])
@pytest.mark.parametrize('channels', [1, 3])
def test_reasons_are_those_of_the_training(name, reason, channels, tmp_path):
    write(tmp_path, broken_files())
    files = ImageFiles([str(tmp_path / name)], 16, channels=channels)
    with pytest.raises(ValueError, match=f'{name}.* be decoded: .*{reason}'):
        files[0]


def test_readable_and_broken_files_are_told_apart(tmp_path):
    (tmp_path / 'sub').mkdir()
    write_images(tmp_path / 'sub', 'a.png', 'd.png', 'e.png')
    assert list_sound_images(str(tmp_path)) == list_images(str(tmp_path))
    content = broken_files()
    write(tmp_path / 'sub', {'b.jpg': content['cut.jpg'], 'c.png': b''})
    paths = list_images(str(tmp_path))
    assert len(paths) == 5
    reasons = [(paths[1], 'cut off, damaged or of an unknown kind'),
               (paths[2], 'empty file')]
    before = torch.get_rng_state()
    assert readable_images(paths) == ([paths[0], *paths[3:]], reasons)
    assert readable_images(paths, 2) == ([paths[0], paths[3]], reasons)
    assert readable_images(paths, 1) == ([paths[0]], [])
    assert torch.equal(before, torch.get_rng_state())
    with pytest.raises(ValueError, match='2 of 5 files .*b.jpg.*cut off.*'
                       'c.png.*empty file.*Replace or remove'):
        list_sound_images(str(tmp_path))


@pytest.mark.parametrize('workers', [0, 1])
def test_workers_read_if_asked_to(workers, monkeypatch):

    def refuse(loader, path):
        raise BadImageError(f'by {os.getpid()}')

    monkeypatch.setattr(LoadImageOrSkip, 'load', refuse)
    _, ((_, reason), ) = readable_images(['a'], num_workers=workers)
    assert (reason == f'by {os.getpid()}') == (workers == 0)
