import json
import sys

import cv2
import numpy as np
import pytest
from PIL import Image

from studies.benchmarks import data_loading
from tests.toys.models import ROOT


def test_images_are_photographs_of_imagenets_size(tmp_path):
    data_loading.make_images(str(tmp_path))
    files = sorted(tmp_path.iterdir())
    assert len(files) == 24
    sizes = [file.stat().st_size for file in files]
    assert 90_000 < np.mean(sizes) < 130_000
    for file in files:
        with Image.open(file) as image:
            assert image.size == (500, 375) and image.format == 'JPEG'
    pixels = {cv2.imread(str(file)).tobytes() for file in files}
    assert len(pixels) == 24  # no two alike


def test_medians_and_ratios_by_hand():
    result = data_loading.summarise(
        dict(stock=[4., 2., 6.], ours=[1., 1., 2.]), 'stock')
    assert result['ours'] == dict(
        microseconds=1e6,
        images_per_second=1,
        images_per_second_min=0.5,
        images_per_second_max=1,
        ratio=3,  # of 4, 2 and 3
        ratio_min=2,
        ratio_max=4)
    assert result['stock']['ratio'] == 1


def test_it_measures_all_and_writes_them(tmp_path, monkeypatch, capsys):
    """Of a folder with sub-folders, and what is no image."""
    images = tmp_path / 'images'
    for index in range(4):
        pixels = np.random.RandomState(index).randint(0, 256, (48, 64, 3))
        folder = images / f'class{index % 2}'
        folder.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / f'{index}.jpg'), pixels.astype(np.uint8))
    (images / 'readme.txt').write_text('no image')
    monkeypatch.setattr(sys, 'argv', [
        'data_loading.py', '--config',
        str(ROOT / 'configs/dmae/vit-s_dmae_in1k.py'), '--images',
        str(images), '--rounds', '2', '--workers', '1', '--batch-size', '2',
        '--cores', '10', '--step-rate', '1e9', '--json',
        str(tmp_path / 'out.json')
    ])
    data_loading.main()
    result = json.loads((tmp_path / 'out.json').read_text())
    assert list(result['per_core']) == [
        'reading the file', 'reading and decoding', 'stock pipeline', 'ours'
    ]
    assert list(result['loader']) == ['loader, stock', 'loader, ours']
    rate = result['per_core']['ours']['images_per_second']
    assert result['images_per_second_by_arithmetic'] == 10 * rate
    output = capsys.readouterr().out
    assert 'If all but reading and decoding took no time' in output
    assert 'the training takes 1,000,000,000' in output
    assert '; 4 files of ' in output
    (images / 'class1' / '1.jpg').write_bytes(b'')
    with pytest.raises(ValueError, match='1 of 4 files .*1.jpg.*empty file'):
        data_loading.main()
