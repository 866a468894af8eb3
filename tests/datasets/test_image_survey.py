"""What is found of a folder of images, and what follows from it."""
import inspect
import os
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from mmpretrain.datasets import CustomDataset
from PIL import Image

from dmae_mm.datasets import EXTENSIONS, survey_images
from dmae_mm.datasets.image_survey import ImageSurvey
from dmae_mm.datasets.survey_consequences import MAX_BROKEN
from dmae_mm.engine.hooks import SkippedImagesHook
from tests.toys.band_files import write_tiff
from tests.toys.folders import write_images
from tests.toys.odd_files import (broken_files, encode, odd_files, photo,
                                  write)


def odd_kinds():
    """Name and content of a file of each kind; all show other pictures."""
    deep = np.random.RandomState(9).randint(0, 65536, (30, 32))
    deep = Image.fromarray(deep.astype(np.uint16))
    return {
        'rgb.jpg': encode(photo(1, 100, 80), 'JPEG'),
        'rgb again.jpg': encode(photo(1, 100, 80), 'JPEG', quality=60),
        'grey.png': encode(photo(2).convert('L'), 'PNG'),
        'clear.png': encode(photo(3).convert('RGBA'), 'PNG'),
        'palette.png': encode(photo(4).convert('P'), 'PNG'),
        'cmyk.JPG': encode(photo(5).convert('CMYK'), 'JPEG'),
        'deep.png': encode(deep, 'PNG'),
        'deep.tif': encode(deep.rotate(90), 'TIFF'),
        'tiny.bmp': encode(photo(6, 2, 1), 'BMP'),
        'cut.jpg': encode(photo(7), 'JPEG')[:300],
        'photo.HEIC': b'not looked into',
        'notes.txt': b'',
        'README': b'',
        '.hidden.jpg': b'',
    }


def survey_of(**values) -> ImageSurvey:
    """A survey of 100 ordinary images of 500 x 375 pixels."""
    return replace(
        ImageSurvey(
            root='photos', num_images=100, sampled=100,
            heights=np.full(100, 375), widths=np.full(100, 500),
            modes=Counter(RGB=100), bit_depths=Counter({8: 100}), channels=3,
            value_range=None, broken=[], ignored=Counter(), hidden=0,
            duplicates=[]), **values)


def test_all_kinds_are_counted(tmp_path):
    (tmp_path / 'sub').mkdir()
    write(tmp_path / 'sub', odd_kinds())
    survey = survey_images(str(tmp_path))
    sub = f'{tmp_path}/sub'
    assert survey.root == str(tmp_path)
    assert (survey.num_images, survey.sampled, survey.hidden) == (10, 10, 1)
    assert sorted(zip(survey.widths, survey.heights)) == [
        (2, 1), (32, 30), (32, 30), *4 * [(60, 44)], *2 * [(100, 80)]]
    assert survey.modes == {
        'RGB': 3, 'L': 1, 'RGBA': 1, 'P': 1, 'CMYK': 1, 'I;16': 2}
    assert survey.bit_depths == {8: 7, 16: 2}
    assert (survey.channels, survey.value_range) == (3, None)
    assert survey.broken == [
        (f'{sub}/cut.jpg', 'cut off, damaged or of an unknown kind')]
    assert survey.ignored == {'.heic': 1, '.txt': 1, 'without ending': 1}
    assert survey.duplicates == [
        [f'{sub}/rgb again.jpg', f'{sub}/rgb.jpg']]


def test_the_files_are_those_of_the_data_set(tmp_path):
    write_images(tmp_path, '1.png', 'a/2.JPEG', 'a/b/3.tiff', '.c/4.png',
                 '.5.png', 'd.png/6.png')
    (tmp_path / 'e').symlink_to(tmp_path / 'a')
    (tmp_path / '7.png').symlink_to(tmp_path / '1.png')
    (tmp_path / '8.png').symlink_to(tmp_path / 'gone.png')
    dataset = CustomDataset(
        data_root=str(tmp_path), with_label=False, extensions=EXTENSIONS)
    survey = survey_images(str(tmp_path))
    assert survey.num_images == len(dataset) == 8
    assert survey.ignored == {'broken link': 1}
    assert survey.hidden == 1
    # All that show one picture: linked, or linked by their folder.
    assert {tuple(os.path.relpath(path, tmp_path) for path in group)
            for group in survey.duplicates} == {
                ('1.png', '7.png'), ('a/2.JPEG', 'e/2.JPEG'),
                ('a/b/3.tiff', 'e/b/3.tiff')}


@pytest.mark.parametrize('name', odd_files())
def test_what_can_be_decoded_is_not_broken(name, tmp_path):
    write(tmp_path, {name: odd_files()[name]})
    survey = survey_images(str(tmp_path))
    assert (survey.sampled, survey.broken) == (1, [])
    # The picture of turned.jpg lies on its side in its file.
    if name == 'turned.jpg':
        assert (survey.widths, survey.heights) == (44, 60)


def test_a_sample_depends_on_seed_and_names_alone(tmp_path, monkeypatch):
    for i in range(60):
        write(tmp_path, {f'{i:02}.png': encode(photo(i, i + 1, 5), 'PNG')})
    first = survey_images(str(tmp_path), max_images=20)
    assert (first.num_images, first.sampled) == (60, 20)
    assert len(set(first.widths)) == 20
    listed = os.scandir

    class Reversed(list):
        __enter__, __exit__ = list.__iter__, lambda *_: None

    monkeypatch.setattr(os, 'scandir',
                        lambda path: Reversed(reversed([*listed(path)])))
    again = survey_images(str(tmp_path), max_images=20)
    np.testing.assert_array_equal(again.widths, first.widths)
    other = survey_images(str(tmp_path), max_images=20, seed=1)
    assert set(other.widths) != set(first.widths)
    # Where time runs out, the first part of the same sample was opened.
    part = survey_images(str(tmp_path), max_images=50, max_seconds=0)
    np.testing.assert_array_equal(part.widths[:20], first.widths)
    assert (part.num_images, part.sampled) == (60, 32)


def test_channels_that_are_no_colours(tmp_path):
    rng = np.random.RandomState(0)
    for i in range(3):
        write_tiff(tmp_path / f'{i}.tif',
                   rng.randint(0, 4000, (20, 30, 5)).astype(np.uint16))
    write(tmp_path, {'rgb.png': encode(photo(), 'PNG')})
    survey = survey_images(str(tmp_path))
    assert survey.channels == 5
    assert survey.modes == {'5 channels': 3}
    assert survey.value_range == (0, 4095)
    assert survey.broken == [
        (f'{tmp_path}/rgb.png', '3 channels, but channels=5 are wanted')]
    said = ' '.join(survey.consequences())
    assert 'LoadImageOrSkip(channels=5)' in said
    assert 'LoadImageOrSkip(value_range=(0, 4095))' in said


@pytest.mark.parametrize('largest, value_range', [
    (200, (0, 255)), (1023, (0, 1023)), (3000, (0, 4095)), (40000, None)])
def test_bits_in_use_make_the_value_range(largest, value_range, tmp_path):
    pixels = np.linspace(0, largest, 900).reshape(30, 30).astype(np.uint16)
    write(tmp_path, {'a.png': encode(Image.fromarray(pixels), 'PNG')})
    survey = survey_images(str(tmp_path))
    assert survey.bit_depths == {16: 1}
    assert survey.value_range == value_range


def test_a_folder_that_gives_no_image_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="gone' is not there"):
        survey_images(str(tmp_path / 'gone'))
    write(tmp_path, {'a.heic': b'', 'b.HEIC': b'', 'c.nef': b'', 'd': b''})
    with pytest.raises(FileNotFoundError, match="a.heic' is a file, not a"):
        survey_images(str(tmp_path / 'a.heic'))
    with pytest.raises(ValueError, match=(
            'no images .*Found 2 .heic, 1 .nef, 1 without ending, .*2 .heic: '
            'convert them once to JPEG, with pillow-heif.*1 .nef: develop')):
        survey_images(str(tmp_path))
    write(tmp_path, broken_files())
    with pytest.raises(ValueError, match=(
            r'None of 6 images opened, of 6 under .*bomb.jpg \(65000 x .*'
            'and 3 more. Is it the right folder')):
        survey_images(str(tmp_path))


def test_the_table_is_aligned_and_narrow(tmp_path):
    deep = tmp_path / ('a folder of a long name ' * 4)
    deep.mkdir()
    write(deep, odd_kinds())
    write(deep, broken_files())
    lines = survey_images(str(tmp_path)).table().splitlines()
    assert max(map(len, lines)) <= 79
    table = '\n'.join(lines)
    for line in (
            'images            15',
            '                      smallest      median     largest',
            'width                        2          60         100',
            'height                       1          44          80',
            'megapixels                0.00        0.00        0.01',
            'bits a value      8: 7, 16: 2',
            'not read          1 .heic, 1 .txt, 1 without ending',
            'hidden files      1'):
        assert line in lines, table
    assert 'cannot be used    6: ' in table
    assert 'near duplicates   2 images show 1 picture: ' in table
    sampled = survey_of(num_images=1_281_167, sampled=2000).table()
    assert ('images            1,281,167, of which 2,000 were opened, at '
            'random\n') in sampled
    assert 'cannot be used    none\n' in sampled


@pytest.mark.parametrize('values, said', [
    (dict(), None),
    (dict(heights=np.full(100, 100)),
     'shorter side of 100 pixels or less: crops are enlarged to 224'),
    (dict(heights=np.full(100, 256)), r'crop_ratio_range=\(0.5, 1.0\)'),
    (dict(heights=np.full(100, 3000), widths=np.full(100, 4000)),
     '12.0 megapixels or more: .* as 64 of ImageNet.*Large photographs'),
    (dict(modes=Counter(L=100)), 'All images are grey'),
    (dict(modes=Counter(L=1, RGB=99)), '1 of 100 images are grey'),
    (dict(modes=Counter(RGBA=7, RGB=93)), '7 of 100 images may be transp'),
    (dict(bit_depths=Counter({16: 5, 8: 95})), '5 of 100 .* the others 8'),
    (dict(bit_depths=Counter({16: 100})), 'of which the upper 8 remain'),
    (dict(num_images=1_281_167),
     '1,281,167 files .*tools/dataset_converters/make_shards.py photos '),
    (dict(broken=[('a', 'b')] * 10), r'10 of .* \(10.0%\): .*Hook skips'),
    (dict(broken=[('a', 'b')] * 11), 'raise its max_fraction'),
    (dict(duplicates=[['a', 'b', 'c'], ['d', 'e']]),
     '5 of 100 images opened show pictures that'),
    (dict(ignored=Counter({'.nef': 3, '.dng': 1, '.txt': 9})),
     '^3 .nef, 1 .dng: develop these raw'),
    (dict(ignored=Counter({'.gif': 3})), '3 .gif: convert .* PNG'),
    (dict(ignored=Counter({'.txt': 9})), None),
])
def test_each_finding_has_its_consequence(values, said):
    lines = survey_of(**values).consequences()
    assert len(lines) == (said is not None), lines
    assert said is None or re.search(said, lines[0]), lines


def test_consequences_follow_the_size_of_the_crop():
    assert survey_of().consequences(96) == []
    assert 'crops are enlarged to 384' in survey_of().consequences(384)[0]


def test_the_limit_of_broken_images_is_that_of_the_hook():
    parameters = inspect.signature(SkippedImagesHook).parameters
    assert parameters['max_fraction'].default == MAX_BROKEN


def test_pages_that_are_named_say_so():
    data = Path(__file__).parents[2].joinpath('docs/data.md').read_text()
    for title in ('Large photographs', 'More than 8 bits',
                  'Other channels than three'):
        assert f'\n## {title}\n' in data
