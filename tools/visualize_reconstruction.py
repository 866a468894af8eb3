"""Draw what a masked autoencoder makes of images, hidden in part.

    python tools/visualize_reconstruction.py CONFIG CHECKPOINT IMAGE... \\
        --mask-ratio 0.5 0.75 0.9 --out reconstruction.png

CONFIG is the one that CHECKPOINT was trained with (each run leaves it in its
work dir); CHECKPOINT is what pre-training has written, with its decoder, or a
file of FAIR's MAE with one. Each image becomes a row: what is visible of it,
the reconstruction, the original. No teacher is needed, except for the maps of
--similarity. Nothing in CHECKPOINT is executed; a config is code.
"""
import argparse
import os.path as osp
import sys
from typing import List, Optional

ROOT = osp.dirname(osp.dirname(osp.abspath(__file__)))
if osp.isdir(osp.join(ROOT, 'dmae_mm')):
    # A clone runs its own code, installed or not: see train.py.
    sys.path.insert(0, ROOT)

from dmae_mm.evaluation.command_line import (at_least,  # noqa: E402
                                             new_parser, run)
from dmae_mm.evaluation.pictures import (check_png,  # noqa: E402
                                         draw_reconstructions, write_png)
from dmae_mm.evaluation.reconstruction import (  # noqa: E402
    reconstruct_with_checkpoint)


def build_parser() -> argparse.ArgumentParser:
    parser = new_parser(__doc__, '--crop-pct', '--value-range', '--device',
                        '--cfg-options')
    add = parser.add_argument
    add('config', metavar='CONFIG', help='path of a config')
    add('checkpoint', metavar='CHECKPOINT', help='path or http(s) URL')
    add('images', metavar='IMAGE', nargs='+', help='path of an image')
    add('--out', metavar='PNG', default='reconstruction.png',
        help='the picture; defaults to reconstruction.png')
    add('--mask-ratio', type=float, nargs='+', metavar='RATIO',
        help="part of the patches that is hidden; several are drawn side by "
        "side. Defaults to the config's")
    add('--seed', type=at_least(0), default=0,
        help='of the masks; a higher ratio hides further patches. Defaults '
        'to 0')
    add('--similarity', action='store_true',
        help='also draw maps of the cosine between projected student and '
        "teacher, which needs the teacher's file")
    return parser


def visualize(args: argparse.Namespace) -> None:
    options = vars(args)
    out = options.pop('out')
    check_png(out)
    if osp.realpath(out) in map(osp.realpath, args.images):
        raise ValueError(f'--out {out!r} is one of the images, which it '
                         'would overwrite.')
    rows, file = reconstruct_with_checkpoint(**options)
    averaged = ', averaged over training (EMA)' * file.is_averaged
    names = ', '.join(map(osp.basename, args.images))
    note = f'{osp.basename(args.checkpoint)}{averaged}: {names}'
    write_png(out, draw_reconstructions(rows, note))
    print(f'{out}: {len(rows)} x {len(rows[0])} reconstructions by '
          f'{file.source} (sha256 {file.sha256[:8]}){averaged}')


def main(argv: Optional[List[str]] = None) -> None:
    run(build_parser(), argv, visualize)


if __name__ == '__main__':
    main()
