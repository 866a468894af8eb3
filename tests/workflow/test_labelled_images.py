"""Which labelled images are learned from, and which are classified."""
import builtins

import pytest

from dmae_mm.evaluation.images import EvaluationPipeline, labelled_images
from dmae_mm.workflow.labelled_images import LabelledImages
from tests.toys.folders import write_classes, write_images


def test_halves_are_the_same_each_time(tmp_path):
    root = write_classes(tmp_path / 'labels', 2, 5, 0)
    images = LabelledImages.of(root)
    assert images.lines == dict(
        train=[f'class{label}/{index}.png {label}'
               for label in (0, 1) for index in (0, 2, 4)],
        test=[f'class{label}/{index}.png {label}'
              for label in (0, 1) for index in (1, 3)])
    assert images == LabelledImages.of(root)
    assert '6 images of 2 classes to learn from and 4 to' in images.note
    assert 'every second image' in images.note and images.neighbours == 5
    lists = images.write_lists(str(tmp_path))
    splits = {
        part: labelled_images(images.folders[part], EvaluationPipeline(32),
                              lists[part]) for part in lists
    }
    assert [len(splits[part]) for part in ('train', 'test')] == [6, 4]


@pytest.mark.parametrize('test', ['test', 'val'])
def test_a_divided_folder_is_taken_as_it_is(tmp_path, test):
    train = write_classes(tmp_path / 'train', 2, 1, 0)
    other = write_classes(tmp_path / test, 2, 3, 1)
    images = LabelledImages.of(str(tmp_path))
    assert images.folders == dict(train=train, test=other)
    assert images.lines == {} and images.neighbours == 2  # of two images
    assert images.write_lists(str(tmp_path)) == dict(train=None, test=None)


def test_classes_that_differ_are_refused(tmp_path):
    write_classes(tmp_path / 'train', 3, 1, 0)
    write_classes(tmp_path / 'test', 2, 1, 0)
    with pytest.raises(ValueError, match='--labels: .*only one has class2'):
        LabelledImages.of(str(tmp_path))


def test_one_image_of_a_class_cannot_be_halved(tmp_path):
    write_images(tmp_path, 'a/1.png', 'a/2.png', 'b/1.png')
    with pytest.raises(ValueError, match='only b/1.png. Add images'):
        LabelledImages.of(str(tmp_path))


def test_images_without_labels_are_refused(tmp_path):
    write_images(tmp_path, '1.png', '2.png')
    with pytest.raises(ValueError, match='--labels: The images .* have no '):
        LabelledImages.of(str(tmp_path))


def test_scikit_learn_is_asked_for_at_the_start(tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith('sklearn'):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, '__import__', without)
    with pytest.raises(ImportError, match='pip install scikit-learn'):
        LabelledImages.of(write_classes(tmp_path, 2, 2, 0))
