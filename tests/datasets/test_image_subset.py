"""Lists of images are checked before anything is trained on them."""
import pytest
from mmengine.registry import init_default_scope
from mmpretrain.registry import DATASETS

from tests.toys.folders import write_images

LINES = ['b/2 x.png 1', 'a/1.png 0']


@pytest.fixture
def root(tmp_path):
    write_images(tmp_path / 'train', 'a/1.png', 'a/2.png', 'b/2 x.png',
                 'c/4.png')
    (tmp_path / 'list.txt').write_text('\n'.join(LINES) + '\n')
    return tmp_path


def build(root, **options):
    init_default_scope('mmpretrain')
    return DATASETS.build(
        dict(
            dict(
                type='ImageSubset',
                data_root=str(root),
                data_prefix='train',
                ann_file='list.txt'), **options))


def test_classes_are_those_of_all_images(root):
    dataset = build(
        root,
        pipeline=[dict(type='LoadImageFromFile'),
                  dict(type='PackInputs')])
    assert dataset.CLASSES == ('a', 'b', 'c')
    assert dataset.get_gt_labels().tolist() == [1, 0]
    # The second of the four images, with a blank in its name.
    assert dataset[0]['data_samples'].img_path.endswith('/train/b/2 x.png')
    assert dataset[0]['inputs'].shape == (3, 36, 40)


def test_it_is_read_later_if_so_wanted(root):
    (root / 'list.txt').write_text('broken')
    dataset = build(root, lazy_init=True)
    with pytest.raises(ValueError, match='1 lines of .*list.txt'):
        dataset.full_init()


@pytest.mark.parametrize('lines, message', [
    ([''], '1 lines of .*/list.txt.* are not of the form .*: \'\'. The list '
     'does not belong to the folder .*/train'),
    (['a/1.png', 'a/2.png'], "2 lines .* not of the form .*: 'a/1.png', "),
    (['a/1.png 3'], "1 lines .* label .* 0 to 2 .*: 'a/1.png 3'"),
    (['a/1.png -1'], "1 lines .* label .* 0 to 2 .*: 'a/1.png -1'"),
    (['a/1.png zero'], "1 lines .* label .*: 'a/1.png zero'"),
    # Labels of another set of class folders.
    (['a/1.png 1', 'c/4.png 2'], "1 lines .* label .*: 'a/1.png 1'"),
    (['d/1.png 0'], "1 lines .* label .*: 'd/1.png 0'"),
    (['a/1.png 0'] * 3, "2 lines .* named before: 'a/1.png 0', 'a/1.png 0'"),
    ([f'a/{i}.png 0' for i in range(1, 8)],
     "5 lines .* not exist: 'a/3.png 0', 'a/4.png 0', 'a/5.png 0' and 2 more"),
    ([], 'list.txt.* is empty'),
])
def test_lists_that_do_not_fit_are_refused(lines, message, root):
    (root / 'list.txt').write_text(''.join(f'{line}\n' for line in lines))
    with pytest.raises(ValueError, match=message):
        build(root)


def test_a_missing_list_says_how_to_write_it(root):
    with pytest.raises(
            FileNotFoundError,
            match='no list .*/other.txt.*make_subset.py .*/train .*/other.txt '
            '--percent 1'):
        build(root, ann_file='other.txt')
    with pytest.raises(FileNotFoundError, match='no folder .*/gone'):
        build(root, data_prefix='gone')


def test_a_mistyped_option_is_refused(root):
    with pytest.raises(TypeError, match='no option with_lables=True.*lazy_in'):
        build(root, with_lables=True)
