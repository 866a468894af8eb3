"""Copy a folder of images into shards, to train from with `ShardDataset`.

    python tools/dataset_converters/make_shards.py data/imagenet/train SHARDS

SRC is searched as training from a folder does: all images that OpenCV reads,
in sub-folders of any depth. With --with-label, each of its sub-folders is a
class. Files are copied unchanged and keep their names; shards are tar files
in the convention of WebDataset. The order of the images is random, but always
the same.

DST appears when all is written, read again and compared. docs/shards.md says
how to train from it.
"""
import argparse
import os.path as osp
import sys
from typing import List, Optional

from tqdm import tqdm

ROOT = osp.dirname(osp.dirname(osp.dirname(osp.abspath(__file__))))
if osp.isdir(osp.join(ROOT, 'dmae_mm')):
    # A clone runs its own code, installed or not: see tools/train.py.
    sys.path.insert(0, ROOT)

from dmae_mm.datasets.shards.write_shards import write_shards  # noqa: E402


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('src', metavar='SRC', help='folder of the images')
    parser.add_argument('dst', metavar='DST', help='folder to make')
    parser.add_argument(
        '--with-label',
        action='store_true',
        help='each sub-folder of SRC is a class: keep the labels')
    parser.add_argument(
        '--shard-mb',
        type=float,
        default=100,
        metavar='MB',
        help='size of a shard in 10^6 bytes; defaults to 100')
    return parser


def main(argv: Optional[List[str]] = None) -> None:
    args = build_parser().parse_args(argv)
    # Seconds from one line to the next, where they do not replace each other.
    pause = 0.5 if sys.stderr.isatty() else 10
    try:
        # Nothing is shown before the first image: it may come to none.
        with tqdm(
                unit='B', unit_scale=True, mininterval=pause,
                delay=1e-3) as bar:

            def report(images: int, all_images: int, size: int,
                       all_size: int) -> None:
                bar.total = all_size
                bar.set_postfix_str(
                    f'{images:,} of {all_images:,} images', refresh=False)
                bar.update(size - bar.n)

            folder = write_shards(
                args.src,
                args.dst,
                with_label=args.with_label,
                shard_bytes=round(args.shard_mb * 1e6),
                report=report)
    except (ImportError, OSError, ValueError) as error:
        sys.exit(f'make_shards.py: {error}')
    classes = folder.index['classes']
    sizes = folder.shard_sizes
    print(f'{args.dst}: {len(folder):,} images in {len(sizes)} shards of '
          f'{min(sizes)} to {max(sizes)}, ' +
          ('without labels' if classes is None else
           f'{len(classes)} classes') + '; read again and compared.')


if __name__ == '__main__':
    main()
