"""Folders of images: with one sub-folder a class, or unlabelled."""
import os
import os.path as osp
from collections import Counter
from typing import Dict, Sequence

from mmengine.registry import DefaultScope
from mmpretrain.datasets import CustomDataset
from mmpretrain.datasets.custom import find_folders

from dmae_mm.messages import first_few

# What OpenCV reads, as in configs/_base_/datasets/image_folder.py.
EXTENSIONS = ('.jpg', '.jpeg', '.png', '.ppm', '.bmp', '.pgm', '.tif', '.tiff',
              '.webp')


def read_class_folders(root: str,
                       pipeline: Sequence[dict] = ()) -> CustomDataset:
    """List the labelled images under a folder.

    Args:
        root (str): A folder with one sub-folder a class, in which images may
            lie in further sub-folders. The classes are numbered in the
            alphabetical order of the folders.
        pipeline (Sequence[dict]): mmpretrain's transforms. Defaults to ().

    Returns:
        CustomDataset: mmpretrain's data set of these images.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If its images have no labels: there are fewer than two
            sub-folders, images lie beside them, or one has no images.
    """
    classes = check_class_folders(root)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        dataset = CustomDataset(
            data_root=root,
            extensions=EXTENSIONS,
            metainfo=dict(classes=tuple(classes)),
            pipeline=pipeline,
            lazy_init=True)
    try:
        dataset.full_init()
    except RuntimeError:  # not one image
        empty = classes
    else:
        found = set(dataset.get_gt_labels().tolist())
        empty = [
            name for label, name in enumerate(classes) if label not in found
        ]
    if empty:
        raise ValueError(
            f'{len(empty)} of the {len(classes)} class folders in {root!r} '
            f'have no images ({", ".join(EXTENSIONS)}): '
            f'{first_few(list(map(repr, empty)))}. '
            'Remove these folders, or add images.' + other_files(
                [osp.join(root, name) for name in empty]))
    return dataset


def check_class_folders(root: str) -> Sequence[str]:
    """Names of the class folders under a folder, in alphabetical order.

    Args:
        root (str): The folder.

    Returns:
        list[str]: What mmpretrain takes for the classes.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If there are fewer than two sub-folders, or images lie
            beside them.
    """
    if not osp.isdir(root):
        raise FileNotFoundError(f'There is no folder {root!r}.')
    # mmpretrain's own rule, which counts hidden folders as well.
    classes, _ = find_folders(root)
    images = sorted(
        name for name in os.listdir(root)
        if name not in classes and name.lower().endswith(EXTENSIONS))
    if len(classes) < 2 or images:
        raise ValueError(
            f'The images in {root!r} have no labels: found are '
            f'{_count(classes, "sub-folder")} and '
            f'{_count(images, "image")} directly in it. Labels are given by '
            'sub-folders, two or more, one for each class, with the images '
            f'in them: {osp.join(root, "cat", "1.png")!r}.')
    return classes


def has_images(folder: str, extensions: Sequence[str] = EXTENSIONS) -> bool:
    """Whether there is an image anywhere under a folder."""
    return any(
        name.lower().endswith(tuple(extensions)) and not name.startswith('.')
        for _, _, names in os.walk(folder, followlinks=True)
        for name in names)


def no_images(folder: str, extensions: Sequence[str] = EXTENSIONS) -> str:
    """What to say of a folder without one image."""
    return (f'There are no images ({", ".join(extensions)}) under '
            f'{folder!r}.{other_files([folder], extensions)}')


def other_files(folders: Sequence[str],
                extensions: Sequence[str] = EXTENSIONS) -> str:
    """What to say of the files under folders that are not taken for images.

    Args:
        folders (Sequence[str]): With their sub-folders.
        extensions (Sequence[str]): Endings of images.

    Returns:
        str: A sentence, after a space; '' if there are none.
    """
    endings = Counter()
    for folder in folders:
        endings += count_endings(folder)
    found = listed_endings(
        {ending: count for ending, count in endings.items()
         if ending not in extensions})
    return (f' Found {found}, which are not read: convert images to one of '
            'these kinds.' if found else '')


def listed_endings(endings: Dict[str, int]) -> str:
    """'40 .heic, 1 .txt': the most frequent first."""
    return first_few([
        f'{count} {ending}' for ending, count in sorted(
            endings.items(), key=lambda item: (-item[1], item[0]))
    ])


def count_endings(folder: str) -> Counter:
    """How many files there are of each ending under a folder.

    Args:
        folder (str): The folder. Its sub-folders are those that data sets
            walk through, linked ones included.

    Returns:
        Counter: From '.jpg', in small letters, 'without ending', or 'hidden',
        which data sets pass over whatever their ending is.
    """
    return Counter(
        'hidden' if name.startswith('.') else
        osp.splitext(name)[1].lower() or 'without ending'
        for _, _, names in os.walk(folder, followlinks=True)
        for name in names)


def _count(names: Sequence[str], what: str) -> str:
    listed = f' ({first_few(list(map(repr, names)))})' * bool(names)
    return f'{len(names)} {what}{"s" * (len(names) != 1)}{listed}'


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
