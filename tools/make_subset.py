"""List a part of the labelled images of a folder, the same number a class.

    python tools/make_subset.py data/imagenet/train \
        data/imagenet/train_1pct.txt --percent 1

ROOT has one sub-folder a class. The list is read by `ImageSubset`, as in
configs/benchmarks/vit-s_finetune-1pct_in1k.py, and by tools/evaluate.py: a
line `class_folder/image.jpg LABEL` for each image, in alphabetical order.

Of each class, round(PERCENT / 100 * images / classes) are taken, at least
one: of ImageNet's 1,281,167 images, 1 percent is 13 a class. Which, depends
on their paths and the seed alone, and the list of a percentage contains those
of all smaller ones with the same seed.
"""
import argparse
import hashlib
import os
import os.path as osp
import sys
import tempfile
from collections import defaultdict
from typing import Dict, List, Optional

ROOT = osp.dirname(osp.dirname(osp.abspath(__file__)))
if osp.isdir(osp.join(ROOT, 'dmae_mm')):
    # A clone runs its own code, installed or not: see train.py.
    sys.path.insert(0, ROOT)

from dmae_mm.datasets import read_class_folders  # noqa: E402


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('root', metavar='ROOT', help='folder of the images')
    parser.add_argument('out', metavar='OUT', help='the list to write')
    parser.add_argument(
        '--percent',
        type=float,
        required=True,
        help='how many of the images, above 0 and up to 100')
    parser.add_argument(
        '--seed', type=int, default=0, help='another choice; defaults to 0')
    parser.add_argument(
        '--force',
        action='store_true',
        help='overwrite OUT if it exists with other lines')
    return parser


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
    folder, name = osp.split(osp.abspath(path))
    os.makedirs(folder, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix='.writing-') as temp:
        written = osp.join(temp, name)
        with open(written, 'w', encoding='utf-8') as file:
            file.write(text)
        os.replace(written, path)


def main(argv: Optional[List[str]] = None) -> None:
    parser = build_parser()
    args = parser.parse_args(argv)
    try:
        images = class_images(args.root)
        lines = balanced_subset(images, args.percent, args.seed)
        write_list(args.out, lines, args.force)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    total = sum(map(len, images.values()))
    print(f'{args.out}: {len(lines)} of {total} images '
          f'({100 * len(lines) / total:.4g} percent), '
          f'{len(lines) // len(images)} of each of {len(images)} classes.')


if __name__ == '__main__':
    main()
