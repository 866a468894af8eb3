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
import os.path as osp
import sys
from typing import List, Optional

ROOT = osp.dirname(osp.dirname(osp.abspath(__file__)))
if osp.isdir(osp.join(ROOT, 'dmae_mm')):
    # A clone runs its own code, installed or not: see train.py.
    sys.path.insert(0, ROOT)

from dmae_mm.datasets import (balanced_subset, class_images,  # noqa: E402
                              write_list)


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
