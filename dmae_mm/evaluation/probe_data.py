"""Labelled images as both evaluation and the online probe show them."""
import os.path as osp
from typing import Any, Optional, Tuple

import cv2
from mmengine.dataset import default_collate
from mmengine.registry import DefaultScope
from mmpretrain.datasets import CustomDataset
from torch.utils.data import DataLoader, Dataset, Subset

from dmae_mm.datasets import ImageSubset, read_class_folders


def labelled_images(root: str,
                    img_size: int,
                    crop_pct: float = 0.875,
                    list_file: Optional[str] = None) -> CustomDataset:
    """Labelled images, resized and cropped without anything random.

    The shorter side becomes ``round(img_size / crop_pct)`` pixels, bicubic,
    and of that the centre is cut out, as in timm and in mmpretrain's test
    pipelines. An image that has this size already is not changed.

    Args:
        root (str): Folder with one sub-folder a class.
        img_size (int): Height and width that the model gets, in pixels.
        crop_pct (float): Part of the shorter side that the crop keeps, above
            0 and up to 1. Defaults to 0.875, at 224 px a resize to 256.
        list_file (str, optional): Take only those that this list of
            ``tools/make_subset.py`` names. Defaults to None.

    Returns:
        CustomDataset: mmpretrain's data set.

    Raises:
        FileNotFoundError: If folder or list do not exist.
        ValueError: If an option has no legal value, the images have no
            labels, or the list does not fit the folder.
    """
    if not 0 < crop_pct <= 1:
        raise ValueError(f'crop_pct={crop_pct} is not above 0 and up to 1.')
    pipeline = [
        dict(type='LoadImageFromFile'),
        dict(
            type='ResizeEdge',
            scale=round(img_size / crop_pct),
            backend='pillow',
            interpolation='bicubic'),
        dict(type='CenterCrop', crop_size=img_size),
        dict(type='PackInputs')
    ]
    if list_file is None:
        return read_class_folders(root, pipeline)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return ImageSubset(
            list_file, data_prefix=root, pipeline=pipeline)


def check_splits(train: CustomDataset, test: CustomDataset,
                 num_neighbors: int) -> None:
    """Refuse splits that cannot be compared with each other.

    Args:
        train (CustomDataset): Images to learn from.
        test (CustomDataset): Images to classify.
        num_neighbors (int): k of the nearest neighbours.

    Raises:
        ValueError: If their classes differ, only one of them is among the
            training images, or there are fewer of these than neighbours.
    """
    ours, theirs = set(train.CLASSES), set(test.CLASSES)
    if ours != theirs:
        raise ValueError(
            'The class folders differ. Only in '
            f'{osp.normpath(train.img_prefix)}: '
            f'{sorted(ours - theirs) or "none"}; only in '
            f'{osp.normpath(test.img_prefix)}: '
            f'{sorted(theirs - ours) or "none"}. Both need the same ones.')
    if len(set(train.get_gt_labels().tolist())) < 2:
        raise ValueError(f'All images that {train.ann_file!r} names are of '
                         'one class. At least two are needed.')
    if not 1 <= num_neighbors <= len(train):
        raise ValueError(
            f'k={num_neighbors} nearest neighbours cannot be found among '
            f'{len(train)} training images. Give k from 1 to {len(train)}.')


def check_readable(dataset: CustomDataset) -> None:
    """Refuse files that are no images, by their first bytes.

    Args:
        dataset (CustomDataset): The images.

    Raises:
        ValueError: If OpenCV does not know the format of one of them.
    """
    paths = (dataset.get_data_info(i)['img_path'] for i in range(len(dataset)))
    wrong = [path for path in paths if not cv2.haveImageReader(path)]
    if wrong:
        more = f' and {len(wrong) - 5} more' * (len(wrong) > 5)
        raise ValueError(
            f'{len(wrong)} of {len(dataset)} files cannot be decoded as '
            f'images: {", ".join(map(repr, wrong[:5]))}{more}. Replace or '
            'remove them.')


def batches(dataset: CustomDataset,
            batch_size: int = 128,
            num_workers: int = 0,
            part: Tuple[int, int] = (0, 1)) -> DataLoader:
    """Batches in mmpretrain's format, in the order of the data set.

    Args:
        dataset (CustomDataset): The images.
        batch_size (int): Images of a batch. Defaults to 128.
        num_workers (int): Processes that read images. Defaults to 0, which
            reads them in this process.
        part (tuple[int, int]): (i, n) takes every n-th image from the i-th
            on; the first image, where that would be none. Defaults to (0,
            1), all.

    Returns:
        DataLoader: The batches.
    """
    indices = range(len(dataset))[part[0]::part[1]] or [0]
    return DataLoader(
        _NamedErrors(Subset(dataset, indices)),
        batch_size,
        num_workers=num_workers,
        collate_fn=default_collate)


class _NamedErrors(Dataset):
    """Says which image it was: OpenCV's errors do not."""

    def __init__(self, subset: Subset) -> None:
        self.subset = subset

    def __len__(self) -> int:
        return len(self.subset)

    def __getitem__(self, index: int) -> Any:
        try:
            return self.subset[index]
        except Exception as error:
            info = self.subset.dataset.get_data_info(
                self.subset.indices[index])
            raise ValueError(
                f'The image {info["img_path"]!r} cannot be decoded '
                f'({type(error).__name__}: {error}). Replace or remove it.'
            ) from None
