"""tools/make_subset.py: balanced, nested, and the same everywhere."""
import runpy
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dmae_mm.datasets import ImageSubset
from dmae_mm.datasets import balanced_subset as subset
from tests.toys.models import ROOT
from tests.toys.folders import write_images

main = runpy.run_path(str(ROOT / 'tools' / 'make_subset.py'))['main']

# Numbers of images of classes that differ by at most a factor of two.
SIZES = st.integers(1, 12).flatmap(
    lambda least: st.lists(st.integers(least, 2 * least), min_size=2))


def images_of(sizes):
    return {
        label: [f'class{label}/{i}.jpg' for i in range(size)]
        for label, size in enumerate(sizes)
    }


@settings(deadline=None)
@given(SIZES, st.floats(0.01, 45), st.floats(0.01, 45), st.integers(0, 3),
       st.randoms(use_true_random=False))
def test_properties(sizes, percent, larger, seed, rng):
    images = images_of(sizes)
    lines = subset(images, percent, seed)
    # Balanced: as many of each, and as many as were asked for.
    count = max(1, round(percent / 100 * sum(sizes) / len(sizes)))
    assert Counter(line.split(' ')[1] for line in lines) == {
        str(label): count
        for label in images
    }
    # Real images with their own labels, each once, sorted.
    assert lines == sorted(set(lines))
    assert set(lines) <= {
        f'{path} {label}'
        for label, paths in images.items() for path in paths
    }
    # Whatever the order in which the file system lists them.
    shuffled = {
        label: rng.sample(images[label], len(images[label]))
        for label in rng.sample(sorted(images), len(images))
    }
    assert subset(shuffled, percent, seed) == lines
    # Nested.
    few, many = sorted((percent, larger))
    assert set(subset(images, few, seed)) <= set(subset(images, many, seed))


@pytest.mark.parametrize('seed, wanted', [
    (0, ['class0/5.jpg 0', 'class0/7.jpg 0', 'class1/2.jpg 1',
         'class1/7.jpg 1']),
    (1, ['class0/0.jpg 0', 'class0/5.jpg 0', 'class1/1.jpg 1',
         'class1/3.jpg 1']),
])
def test_the_choice_never_changes(seed, wanted):
    """Written down, since other people's lists have to be the same."""
    assert subset(images_of([8, 8]), 25, seed) == wanted


def test_each_image_can_be_chosen():
    images = images_of([5, 5])
    chosen = {line for seed in range(60) for line in subset(images, 1, seed)}
    assert len(chosen) == 10


@pytest.mark.parametrize('percent', [0, -1, 100.5, float('nan')])
def test_impossible_percentages(percent):
    with pytest.raises(ValueError, match='--percent .* above 0 and up to 100'):
        subset(images_of([5, 5]), percent, 0)


def test_the_smallest_class_is_the_limit():
    images = images_of([10, 2])
    assert len(subset(images, 33.3, 0)) == 4
    with pytest.raises(
            ValueError,
            match=r"--percent 50 needs 3 .* 'class1/0.jpg' has only 2. At "
            'most 33.33 percent'):
        subset(images, 50, 0)


@pytest.mark.parametrize('name', ['a\nb.jpg', ' a.jpg'])
def test_names_that_are_no_line(name):
    with pytest.raises(ValueError, match='rename'):
        subset({0: [name], 1: ['b/b.jpg']}, 100, 0)


@pytest.fixture
def folder(tmp_path):
    write_images(tmp_path / 'train', *(f'{name}/{i}.png' for name in 'ab'
                                       for i in range(4)))
    return tmp_path


def test_the_list_is_read_by_the_data_set(folder, capsys):
    root, out = str(folder / 'train'), str(folder / 'lists' / 'half.txt')
    main([root, out, '--percent', '50'])
    assert capsys.readouterr().out == (
        f'{out}: 4 of 8 images (50 percent), 2 of each of 2 classes.\n')
    dataset = ImageSubset(out, data_prefix=root)
    assert dataset.get_gt_labels().tolist() == [0, 0, 1, 1]
    assert [path.name for path in (folder / 'lists').iterdir()] == ['half.txt']


def test_another_list_is_not_overwritten(folder, capsys):
    root, out = str(folder / 'train'), folder / 'list.txt'
    main([root, str(out), '--percent', '50'])
    lines = out.read_text()
    main([root, str(out), '--percent', '50'])  # the same: nothing to do
    with pytest.raises(SystemExit) as stop:
        main([root, str(out), '--percent', '25'])
    assert stop.value.code == 2
    assert 'exists with other lines' in capsys.readouterr().err
    assert out.read_text() == lines
    main([root, str(out), '--percent', '25', '--force'])
    assert set(out.read_text().splitlines()) < set(lines.splitlines())


@pytest.mark.parametrize('root, message', [
    ('gone', 'There is no folder'),
    ('train/a', 'have no labels'),
])
def test_refusals(root, message, folder, capsys):
    with pytest.raises(SystemExit) as stop:
        main([str(folder / root), str(folder / 'o.txt'), '--percent', '50'])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert not (folder / 'o.txt').exists()
