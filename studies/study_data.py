"""The photographs of a study, as three folders of class folders.

``all`` has every training image, for the teacher, which gets no labels;
``train`` the students' part of them; ``test`` what accuracy is measured on.
"""
import gzip
import hashlib
import json
import os
import os.path as osp
import shutil
from typing import Callable, Dict, List, Tuple

import cv2
import numpy as np
from dmae_mm.datasets import (balanced_subset, class_images,
                              read_class_folders, write_list)
from dmae_mm.files import write_whole
from dmae_mm.messages import first_few, one_line

NAMED = ('cifar10', 'fashion-mnist')
SIZE = 32  # pixels; images of another size are resized
STUDENTS, HELD_OUT = 10_000, 2_000  # images, equally many of each class
LEAST_TRAIN, LEAST_TEST = 50, 10  # of each class
LABELS = (1, 10)  # per cent, for the lists of a part of the labels
DEBIAN = '/usr/share/datasets/fashion-mnist'
# Class, and its images as arrays (H, W) or (H, W, 3), BGR.
Arrays = List[Tuple[str, np.ndarray]]


def name_of(data: str) -> str:
    """What files about the data are called: 'cifar10', or the folder."""
    return data if data in NAMED else osp.basename(osp.abspath(data))


def prepare(data: str, held_out: bool = False) -> str:
    """Write the three folders, once, and lists of 1% and 10% of ``train``.

    Images of 32 x 32 px are linked, others resized.

    Args:
        data (str): 'cifar10' or 'fashion-mnist', which are fetched, or a
            folder with ``train`` and ``test``, in them the class folders.
        held_out (bool): Leave the test images alone; 2,000 of the training
            images, at most a fifth, are ``test``, and ``train`` has none of
            them. Defaults to False.

    Returns:
        str: Folder of ``all``, ``train``, ``test``, ``1pct.txt``,
        ``10pct.txt`` and ``images.json``, which tells whether two folders
        are the same.

    Raises:
        FileNotFoundError: If there is no such folder, or it has no split.
        ValueError: If the classes of the splits differ, images cannot be
            read or have not 8 bits, or a class has too few.
    """
    folder = osp.join(
        'data', f'{name_of(data)}_study' + '_held_out' * held_out)
    done = osp.join(folder, 'images.json')
    here = osp.abspath(data) if data not in NAMED else data
    if osp.isfile(done):
        with open(osp.join(folder, 'source.txt')) as file:
            other = file.read()
        if other != here:
            raise ValueError(
                f'--data {data}: {folder} holds the images of {other}. '
                'Rename one of the folders, or remove that.')
        return folder
    source = fetch(data) if data in NAMED else data
    train, test = _splits(source)
    rest = train
    if held_out:
        test = _part(
            train, min(HELD_OUT, sum(map(len, train.values())) // 5))
        rest = {
            name: sorted({*paths} - {*test[name]})
            for name, paths in train.items()
        }
    splits = dict(all=train, train=_part(rest, STUDENTS), test=test)
    for split in ('train', 'test'):
        least = LEAST_TRAIN if split == 'train' else LEAST_TEST
        few = [
            f'{name!r} {len(paths)}'
            for name, paths in splits[split].items() if len(paths) < least
        ]
        if few:
            raise ValueError(
                f'--data {data}: at least {least} images of each class are '
                f'needed to {split}; there are of {first_few(few)}. Add '
                'images, or leave these classes out of both splits.')
    shutil.rmtree(folder, ignore_errors=True)  # of an interrupted run
    digests = {split: hashlib.sha256() for split in splits}
    bad = []
    for split, classes in splits.items():
        for name, paths in classes.items():
            os.makedirs(osp.join(folder, split, name))
            for number, path in enumerate(paths):
                try:
                    out = osp.join(folder, split, name, f'{number:05d}')
                    digests[split].update(name.encode() + _place(path, out))
                except ValueError as error:
                    bad.append(str(error))
    if bad:
        shutil.rmtree(folder)
        raise ValueError(
            f'--data {data}: {len(bad)} images cannot be used: '
            f'{first_few(bad, 3, "; ")}. Convert them to 8 bits a channel, '
            'or take them out.')
    images = class_images(osp.join(folder, 'train'))
    for percent in LABELS:
        write_list(
            osp.join(folder, f'{percent}pct.txt'),
            balanced_subset(images, percent, seed=0),
            force=False)
    with open(osp.join(folder, 'source.txt'), 'w') as file:
        file.write(here)
    found: Dict[str, object] = {
        split: sum(map(len, classes.values()))
        for split, classes in splits.items()
    }
    found['classes'] = sorted(train)
    found['digests'] = {
        split: digest.hexdigest()[:12]
        for split, digest in digests.items()
    }
    with write_whole(done) as file, open(file, 'w') as stream:
        json.dump(found, stream, indent=2)
    return folder


def fetch(data: str) -> str:
    """Write one of the named data sets as class folders of PNG, once.

    Raises:
        FileNotFoundError: If it cannot be fetched.
    """
    folder = osp.join('data', data)
    if osp.isfile(osp.join(folder, 'complete')):
        return folder
    read: Callable[[str], Arrays] = (
        _cifar10 if data == 'cifar10' else _fashion_mnist)
    for split in ('train', 'test'):
        try:
            arrays = read(split)
        except (OSError, RuntimeError) as error:
            advice = (' Or install it: apt-get install dataset-fashion-mnist.'
                      if data == 'fashion-mnist' else '')
            raise FileNotFoundError(
                f'--data {data} could not be fetched ({one_line(error)}). '
                'Give a folder that has it, with train/CLASS and test/CLASS.'
                + advice) from None
        for index, (name, image) in enumerate(arrays):
            path = osp.join(folder, split, name.replace('/', '-'))
            os.makedirs(path, exist_ok=True)
            cv2.imwrite(osp.join(path, f'{index:05d}.png'), image)
    open(osp.join(folder, 'complete'), 'w').close()
    return folder


def _cifar10(split: str) -> Arrays:
    from torchvision.datasets import CIFAR10
    found = CIFAR10(
        osp.join('data', 'download'), train=split == 'train', download=True)
    return [(found.classes[label], image[..., ::-1])
            for image, label in zip(found.data, found.targets)]


def _fashion_mnist(split: str) -> Arrays:
    from torchvision.datasets import FashionMNIST
    if osp.isdir(DEBIAN):
        stem = osp.join(DEBIAN, 'train' if split == 'train' else 't10k')
        images = _idx(f'{stem}-images-idx3-ubyte.gz', 16).reshape(-1, 28, 28)
        labels = _idx(f'{stem}-labels-idx1-ubyte.gz', 8)
    else:
        found = FashionMNIST(
            osp.join('data', 'download'), split == 'train', download=True)
        images, labels = found.data.numpy(), found.targets.numpy()
    return [(FashionMNIST.classes[label], image)
            for image, label in zip(images, labels)]


def _idx(path: str, header: int) -> np.ndarray:
    with gzip.open(path) as file:
        return np.frombuffer(file.read(), np.uint8, offset=header)


def _splits(source: str) -> List[Dict[str, List[str]]]:
    """Paths of the training and of the test images of each class."""
    found = []
    for split in ('train', 'test'):
        root = osp.join(source, split)
        if not osp.isdir(root):
            raise FileNotFoundError(
                f'--data {source}: there is no folder {root!r}. Give '
                f'{" or ".join(NAMED)}, or a folder with train/CLASS and '
                'test/CLASS.')
        names = read_class_folders(root).CLASSES
        found.append({
            names[label]: [osp.join(root, path) for path in sorted(paths)]
            for label, paths in class_images(root).items()
        })
    other = sorted(found[0].keys() ^ found[1].keys())
    if other:
        raise ValueError(
            f'--data {source}: train and test must have the same classes; '
            f'only one of them has {first_few(list(map(repr, other)))}.')
    return found


def _part(images: Dict[str, List[str]], total: int) -> Dict[str, List[str]]:
    """As many of each class: together ``total``, or all that allows."""
    smallest = min(map(len, images.values()))
    count = max(1, min(total // len(images), smallest))
    lines = balanced_subset(
        {label: paths for label, paths in enumerate(images.values())},
        100 * count * len(images) / sum(map(len, images.values())),
        seed=0)
    chosen: Dict[str, List[str]] = {name: [] for name in images}
    for line in lines:
        path, label = line.rsplit(' ', 1)
        chosen[list(images)[int(label)]].append(path)
    return chosen


def _place(path: str, out: str) -> bytes:
    """Link or write one image; what it is made of."""
    image = cv2.imread(path, cv2.IMREAD_UNCHANGED)
    if image is None:
        raise ValueError(f'{path} is not readable')
    if image.dtype != np.uint8:
        raise ValueError(f'{path} has {8 * image.itemsize} bits a channel')
    if image.shape[:2] == (SIZE, SIZE):
        os.symlink(osp.abspath(path), out + osp.splitext(path)[1].lower())
    else:
        height, width = image.shape[:2]
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        cv2.imwrite(
            out + '.png',
            cv2.resize(
                image[top:top + side, left:left + side], (SIZE, SIZE),
                interpolation=cv2.INTER_AREA
                if side > SIZE else cv2.INTER_CUBIC))
    return hashlib.sha256(image.tobytes()).digest()
