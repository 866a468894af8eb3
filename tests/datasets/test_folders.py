"""Folders of labelled images, and what is said of others."""
import pytest

from dmae_mm.datasets import read_class_folders

from tests.toys.folders import write_images


def test_labels_are_the_order_of_the_folders(tmp_path):
    write_images(tmp_path, 'b/2.png', 'b/1.webp', 'a/deep/3.JPEG', 'c/x.tiff')
    (tmp_path / 'a' / 'notes.txt').write_text('no image')
    (tmp_path / 'notes.txt').write_text('no image')
    dataset = read_class_folders(str(tmp_path))
    assert dataset.CLASSES == ('a', 'b', 'c')
    assert [(dataset.get_data_info(i)['img_path'],
             dataset.get_data_info(i)['gt_label']) for i in range(4)] == [
                 (f'{tmp_path}/a/deep/3.JPEG', 0), (f'{tmp_path}/b/1.webp', 1),
                 (f'{tmp_path}/b/2.png', 1), (f'{tmp_path}/c/x.tiff', 2)
             ]


@pytest.mark.parametrize('files, message', [
    ([], '0 sub-folders and 0 images directly'),
    (['1.png', '2.png'], r"0 sub-folders and 2 images \('1.png', '2.png'\) "
     'directly in it. Labels are given by sub-folders'),
    (['a/1.png'], r"1 sub-folder \('a'\) and 0 images"),
    (['a/1.png', 'b/1.png', '1.png'], r"2 sub-folders .* 1 image \('1.png'\)"),
    (['a/1.png', 'b/', '.hidden/'],
     "2 of the 3 class folders .* no images .*: '.hidden', 'b'"),
    (['a/', 'b/'], '2 of the 2 class folders'),
])
def test_images_without_labels_are_refused(files, message, tmp_path):
    write_images(tmp_path, *files)
    with pytest.raises(ValueError, match=message):
        read_class_folders(str(tmp_path))


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match='no folder .*/gone'):
        read_class_folders(str(tmp_path / 'gone'))
