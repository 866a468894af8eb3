import os.path as osp
from typing import List

from mmpretrain.datasets import CustomDataset

from .class_folders import EXTENSIONS


def list_images(folder: str) -> List[str]:
    """Paths of all images under a folder, sub-folders included, sorted.

    They are those that the data sets of the configs find.

    Args:
        folder (str): The folder.

    Returns:
        list[str]: The paths.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If there are no images in it.
    """
    if not osp.isdir(folder):
        raise FileNotFoundError(f'There is no folder {folder!r}.')
    try:
        dataset = CustomDataset(
            data_root=folder, with_label=False, extensions=EXTENSIONS)
    except RuntimeError:  # not one image
        raise ValueError(f'There are no images ({", ".join(EXTENSIONS)}) '
                         f'under {folder!r}.') from None
    return sorted(
        dataset.get_data_info(i)['img_path'] for i in range(len(dataset)))
