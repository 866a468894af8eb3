"""Lists of a part of labelled images, the same number of each class."""
import hashlib
import os
import os.path as osp
from collections import defaultdict
from typing import Dict, List

from dmae_mm.files import write_whole

from .folders import read_class_folders


def class_images(root: str) -> Dict[int, List[str]]:
    """Paths of the images of each label, seen from ``root``."""
    dataset = read_class_folders(root)
    images = defaultdict(list)
    for index in range(len(dataset)):
        info = dataset.get_data_info(index)
        images[info['gt_label']].append(
            osp.relpath(info['img_path'], root).replace(os.sep, '/'))
    return dict(images)


def balanced_subset(images: Dict[int, List[str]], percent: float,
                    seed: int) -> List[str]:
    """Lines of the list.

    Args:
        images (dict[int, list[str]]): Paths of the images of each label.
        percent (float): How many of them.
        seed (int): Which of them.

    Returns:
        list[str]: ``path LABEL``, sorted.

    Raises:
        ValueError: If there is no such percentage, a class has too few
            images for it, or a path cannot be written in a line.
    """
    if not 0 < percent <= 100:
        raise ValueError(f'--percent {percent:g} is not above 0 and up to '
                         '100.')
    total, smallest = sum(map(len, images.values())), min(
        images.values(), key=len)
    count = max(1, round(percent / 100 * total / len(images)))
    if count > len(smallest):
        raise ValueError(
            f'--percent {percent:g} needs {count} images of each class, but '
            f'the class of {smallest[0]!r} has only {len(smallest)}. At most '
            f'{100 * len(smallest) * len(images) / total:.4g} percent can be '
            'taken with the same number from each.')
    lines = []
    for label, paths in images.items():
        # By hash instead of by a random generator: independent of the order
        # in which files are found, of libraries, and of the other classes.
        paths = sorted(
            paths,
            key=lambda path: hashlib.sha256(f'{seed} {path}'.encode()).digest(
            ))
        lines += [f'{path} {label}' for path in paths[:count]]
    unfit = [line for line in lines if [line] != line.strip().splitlines()]
    if unfit:
        raise ValueError(f'{unfit[0]!r} cannot be a line of a list: rename '
                         'the file or its folder.')
    return sorted(lines)


def write_list(path: str, lines: List[str], force: bool) -> None:
    """Write the list, whole or not at all.

    Raises:
        FileExistsError: If there is another one and ``force`` is not given.
    """
    text = ''.join(f'{line}\n' for line in lines)
    if osp.exists(path) and not force:
        with open(path, encoding='utf-8', errors='replace') as file:
            if file.read() == text:
                return
        raise FileExistsError(f'{path} exists with other lines: choose '
                              'another name, or overwrite it with --force.')
    with write_whole(path) as unfinished:
        with open(unfinished, 'w', encoding='utf-8') as file:
            file.write(text)
