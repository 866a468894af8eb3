import pytest
from mmpretrain.registry import DATASETS

from tests.toys.folders import write_images


def names(root, num_images):
    dataset = DATASETS.build(dict(
        type='SpreadImages', num_images=num_images, data_root=str(root),
        with_label=False))
    return [dataset.get_data_info(index)['img_path'].rpartition('/')[2]
            for index in range(len(dataset))]


def test_images_of_the_whole_folder(tmp_path):
    write_images(tmp_path, *(f'{folder}/{folder}{index}.png'
                             for folder in 'ab' for index in range(3)))
    assert names(tmp_path, 2) == ['a0.png', 'b0.png']
    assert names(tmp_path, 4) == ['a0.png', 'a1.png', 'b0.png', 'b1.png']
    assert len(names(tmp_path, 7)) == 6


@pytest.mark.parametrize('number', [0, 1.5, True])
def test_numbers_that_are_none(tmp_path, number):
    with pytest.raises(ValueError, match=f'num_images={number} is not'):
        names(tmp_path, number)
