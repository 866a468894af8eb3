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

from dmae_mm.evaluation import image_size  # noqa: E402
from dmae_mm.evaluation.image_files import ImageFiles  # noqa: E402
from dmae_mm.evaluation.png import check_png, write_png  # noqa: E402
from dmae_mm.evaluation.pretraining_model import (  # noqa: E402
    build_pretraining_model, load_pretrained, read_model_config)
from dmae_mm.evaluation.reconstruction import (check_reconstructs,  # noqa: E402
                                             reconstruct)
from dmae_mm.evaluation.reconstruction_picture import (  # noqa: E402
    draw_reconstructions)
from dmae_mm.models.checks import check_mask_ratio  # noqa: E402
from dmae_mm.models.student_input import input_channels  # noqa: E402
from mmengine.config import DictAction  # noqa: E402
from mmengine.device import get_device  # noqa: E402


def main(argv: Optional[List[str]] = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', metavar='CONFIG', help='path of a config')
    parser.add_argument(
        'checkpoint', metavar='CHECKPOINT', help='path or http(s) URL')
    parser.add_argument(
        'images', metavar='IMAGE', nargs='+', help='path of an image')
    parser.add_argument(
        '--out',
        metavar='PNG',
        default='reconstruction.png',
        help='the picture; defaults to reconstruction.png')
    parser.add_argument(
        '--mask-ratio',
        type=float,
        nargs='+',
        metavar='RATIO',
        help="part of the patches that is hidden; several are drawn side by "
        "side. Defaults to the config's")
    parser.add_argument(
        '--seed',
        type=int,
        default=0,
        help='of the masks; a higher ratio hides further patches. Defaults '
        'to 0')
    parser.add_argument(
        '--similarity',
        action='store_true',
        help='also draw maps of the cosine between projected student and '
        "teacher, which needs the teacher's file")
    parser.add_argument(
        '--crop-pct',
        type=float,
        default=0.875,
        metavar='PART',
        help='part of the shorter side that the central crop keeps; defaults '
        'to 0.875: 224 of 256 pixels')
    parser.add_argument(
        '--device', help="defaults to 'cuda' where there is one, or 'cpu'")
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        default={},
        metavar='KEY=VALUE',
        help='change the config, for example model.teacher.checkpoint=PATH')
    args = parser.parse_args(argv)
    try:
        _visualize(args)
    except (ImportError, OSError, ValueError) as error:
        parser.error(str(error))


def _visualize(args: argparse.Namespace) -> None:
    """Do what the command line says."""
    check_png(args.out)
    if osp.realpath(args.out) in map(osp.realpath, args.images):
        raise ValueError(f'--out {args.out!r} is one of the images, which it '
                         'would overwrite.')
    if args.seed < 0:
        raise ValueError(f'--seed {args.seed} is not at least 0.')
    model = build_pretraining_model(
        read_model_config(args.config, args.cfg_options), args.config,
        args.similarity)
    check_reconstructs(model)
    ratios = args.mask_ratio or [model.backbone.mask_ratio]
    for ratio in ratios:
        model.backbone.mask_ratio = ratio
        check_mask_ratio(model.backbone, has_teacher=False)
    files = ImageFiles(args.images, image_size(model.backbone), args.crop_pct,
                       input_channels(model.backbone))
    images = [files[index]['inputs'] for index in range(len(files))]
    file = load_pretrained(model, args.checkpoint, args.config)
    if args.similarity:
        model.teacher.init_weights()
    try:
        model.to(args.device or get_device())
    except (AssertionError, RuntimeError) as error:  # by where torch notices
        raise ValueError(f'--device {args.device}: {error}') from None

    columns = []
    for ratio in ratios:
        model.backbone.mask_ratio = ratio
        columns.append(reconstruct(model, images, args.seed))
    names = ', '.join(map(osp.basename, args.images))
    averaged = ', averaged over training (EMA)' * file.is_averaged
    picture = draw_reconstructions(
        list(zip(*columns)),
        f'{osp.basename(args.checkpoint)}{averaged}: {names}')
    write_png(args.out, picture)
    print(f'{args.out}: {len(images)} x {len(ratios)} reconstructions by '
          f'{file.source} (sha256 {file.sha256[:8]}){averaged}')


if __name__ == '__main__':
    main()
