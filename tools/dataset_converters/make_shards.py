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
import time
from typing import List, Optional

ROOT = osp.dirname(osp.dirname(osp.dirname(osp.abspath(__file__))))
if osp.isdir(osp.join(ROOT, 'dmae_mm')):
    # A clone runs its own code, installed or not: see tools/train.py.
    sys.path.insert(0, ROOT)

from dmae_mm.datasets.shards.write_shards import write_shards  # noqa: E402

_UNITS = (1e9, 'GB', 2), (1e6, 'MB', 2), (1e3, 'kB', 2), (1, 'bytes', 0)


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


class Progress:
    """Prints how far it is: over one line of a terminal, else now and then."""

    def __init__(self) -> None:
        self.begun = self.printed = time.monotonic()
        self.on_terminal = sys.stdout.isatty()

    def __call__(self, images: int, all_images: int, size: int,
                 all_size: int) -> None:
        now = time.monotonic()
        pause = 0.5 if self.on_terminal else 10
        if now - self.printed < pause and images < all_images:
            return
        self.printed = now
        # By bytes, which take the time; files may all be empty.
        left = (now - self.begun) * (all_size - size) / max(size, 1)
        unit, name, digits = next(
            (one for one in _UNITS if all_size >= one[0]), _UNITS[-1])
        print(
            f'{images:,} of {all_images:,} images, {size / unit:.{digits}f} '
            f'of {all_size / unit:.{digits}f} {name}, {left:.0f} s left',
            end='\r' if self.on_terminal and images < all_images else '\n',
            flush=True)


def main(argv: Optional[List[str]] = None) -> None:
    args = build_parser().parse_args(argv)
    try:
        folder = write_shards(
            args.src,
            args.dst,
            with_label=args.with_label,
            shard_bytes=round(args.shard_mb * 1e6),
            report=Progress())
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
