import os.path as osp

from mmpretrain.datasets import CustomDataset

from .class_folders import EXTENSIONS, no_images


def image_folder(folder: str) -> CustomDataset:
    """All images under a folder, sub-folders included, unlabelled.

    They are those that the data sets of the configs find.

    Args:
        folder (str): The folder.

    Returns:
        CustomDataset: mmpretrain's data set of them.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If there are no images in it.
    """
    if not osp.isdir(folder):
        raise FileNotFoundError(f'There is no folder {folder!r}.')
    try:
        return CustomDataset(
            data_root=folder, with_label=False, extensions=EXTENSIONS)
    except RuntimeError:  # not one image
        raise ValueError(no_images(folder)) from None
