"""Which blocks of student and teacher have similar features? Linear CKA.

    python tools/analysis/layer_similarity.py CONFIG --images FOLDER

CONFIG is one of DMAE, with its teacher's file; without --checkpoint the
student is untrained. Writes the matrix of all student blocks by all teacher
blocks, for the tokens of visible patches, to layer_similarity.png and .json
(--out), and prints two kinds of pairs for aligned_layers:

    3/4 rule       three quarters of both depths: what the paper chose by its
                   ablation
    most similar   the student blocks of the config's aligned_layers, each
                   with the teacher block of the highest CKA (of equal ones,
                   the first)

The second is a description, not a prediction: CKA says how similar features
are, not how much a student gains by being taught them. Between an untrained
student and a teacher it mostly finds early blocks, which are similar because
neither has computed much; after training, it finds what was aligned. Only a
run with each choice decides. Nothing in a checkpoint is executed; a config is
code.
"""
import argparse
import dataclasses
import json
import os.path as osp
import sys
import time
from typing import Iterable, Iterator, List, Optional

ROOT = osp.dirname(osp.dirname(osp.dirname(osp.abspath(__file__))))
if osp.isdir(osp.join(ROOT, 'dmae_mm')):
    # A clone runs its own code, installed or not: see train.py.
    sys.path.insert(0, ROOT)

from dmae_mm.evaluation import image_files, image_size  # noqa: E402
from dmae_mm.evaluation.cka import MIN_EXAMPLES  # noqa: E402
from dmae_mm.evaluation.layer_similarity import (  # noqa: E402
    Pair, build_whole_teacher, choose_pairs, layer_similarity, resolve_pairs,
    rule_pair)
from dmae_mm.evaluation.layer_similarity_picture import (  # noqa: E402
    draw_layer_similarity)
from dmae_mm.evaluation.png import check_png, write_png  # noqa: E402
from dmae_mm.evaluation.pretraining_model import (  # noqa: E402
    build_pretraining_model, load_backbone, read_model_config)
from dmae_mm.models import DMAE  # noqa: E402
from dmae_mm.models.mmpretrain_vits import blocks  # noqa: E402
from dmae_mm.models.student_input import (  # noqa: E402
    StudentInput, input_channels)
import torch  # noqa: E402
from mmengine.config import DictAction  # noqa: E402
from mmengine.dataset import default_collate  # noqa: E402
from mmengine.device import get_device  # noqa: E402
from torch.utils.data import DataLoader  # noqa: E402


def main(argv: Optional[List[str]] = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', metavar='CONFIG', help='path of a config')
    parser.add_argument(
        '--images',
        required=True,
        metavar='FOLDER',
        help='images, in sub-folders or not')
    parser.add_argument(
        '--checkpoint',
        metavar='STUDENT',
        help='path or http(s) URL of the trained student, with or without '
        'its decoder; without it, the student is untrained')
    parser.add_argument(
        '--num-images',
        type=int,
        default=1024,
        metavar='N',
        help='images that are drawn from the folder, broken ones skipped; '
        'defaults to 1024, or all where there are fewer')
    parser.add_argument(
        '--out',
        metavar='PNG',
        default='layer_similarity.png',
        help='the picture, with a .json beside it; defaults to '
        'layer_similarity.png')
    parser.add_argument(
        '--batch-size',
        type=int,
        default=64,
        help='images of a batch: memory, and noise, but no bias; defaults to '
        '64')
    parser.add_argument(
        '--num-workers',
        type=int,
        default=2,
        help='processes that read images; defaults to 2')
    parser.add_argument(
        '--seed',
        type=int,
        default=0,
        help='of the choice of images, the masks and an untrained student; '
        'defaults to 0')
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
        _compare(args)
    except (ImportError, OSError, ValueError) as error:
        parser.error(str(error))


def _compare(args: argparse.Namespace) -> None:
    """Do what the command line says."""
    _check_options(args)
    section = read_model_config(args.config, args.cfg_options)
    if not section.get('teacher'):
        raise ValueError(f'The config {args.config} has no model.teacher to '
                         'compare the student with.')
    torch.manual_seed(args.seed)
    model = build_pretraining_model(section, args.config)
    if not isinstance(model, DMAE):
        raise ValueError(f'The model of {args.config} is a '
                         f'{type(model).__name__}, not a DMAE.')
    teacher = build_whole_teacher(
        section.teacher.to_dict(),
        StudentInput.of_vit(model.backbone, model.data_preprocessor))
    configured = resolve_pairs(section.aligned_layers,
                               len(blocks(model.backbone)), teacher.num_layers)
    batches = _batches(args, image_size(model.backbone),
                       input_channels(model.backbone))
    sha256 = load_backbone(model, args.checkpoint, args.config)
    teacher.init_weights()
    try:
        for module in (model, teacher):
            module.to(args.device or get_device())
    except (AssertionError, RuntimeError) as error:  # by where torch notices
        raise ValueError(f'--device {args.device}: {error}') from None

    torch.manual_seed(args.seed)  # the same masks with and without checkpoint
    cka = layer_similarity(model, teacher, _with_progress(batches))
    rule = rule_pair(cka)
    chosen = choose_pairs(cka, [ours for ours, _ in configured])
    results = dict(
        config=args.config,
        checkpoint=args.checkpoint,
        sha256=sha256,
        teacher=teacher.checkpoint,
        images=args.images,
        num_images=len(batches.dataset),
        batch_size=args.batch_size,
        mask_ratio=model.backbone.mask_ratio,
        seed=args.seed,
        rule=dataclasses.asdict(rule),
        config_pairs=[
            dataclasses.asdict(Pair(*pair, cka[pair].item()))
            for pair in configured
        ],
        most_similar=[dataclasses.asdict(pair) for pair in chosen],
        most_similar_of_all_student_blocks=[
            dataclasses.asdict(pair)
            for pair in choose_pairs(cka, range(len(cka)))
        ],
        cka=cka.tolist())
    with open(_json_path(args.out), 'w') as stream:
        json.dump(results, stream, indent=2)
    state = 'untrained' if args.checkpoint is None else '/'.join(
        args.checkpoint.split('/')[-2:])
    picture = draw_layer_similarity(
        cka, rule, chosen,
        f'{osp.basename(args.config)}, student {state}\n'
        f'{len(batches.dataset)} images, '
        f'mask ratio {model.backbone.mask_ratio}')
    write_png(args.out, picture)
    print(f'{_listed("3/4 rule", [rule])}\n'
          f'{_listed("most similar", chosen)}\n'
          'CKA does not say what a student gains by a pair: see --help.\n'
          f'{args.out}, {_json_path(args.out)}')


def _check_options(args: argparse.Namespace) -> None:
    """Find out now, not after the work."""
    for name, value, least in (('--batch-size', args.batch_size, MIN_EXAMPLES),
                               ('--num-images', args.num_images, MIN_EXAMPLES),
                               ('--num-workers', args.num_workers, 0),
                               ('--seed', args.seed, 0)):
        if value < least:
            raise ValueError(f'{name} {value} is not at least {least}.')
    check_png(args.out)


def _json_path(out: str) -> str:
    return f'{out[:-len(".png")]}.json'


def _batches(args: argparse.Namespace, img_size: int,
             channels: int) -> DataLoader:
    """Batches of images in random order, of almost equal sizes."""
    paths = image_files.list_images(args.images)
    generator = torch.Generator().manual_seed(args.seed)
    order = torch.randperm(len(paths), generator=generator)
    paths, broken = image_files.readable_images(
        [paths[index] for index in order], args.num_images, args.num_workers)
    for number, (path, why) in enumerate(broken, 1):
        print(f'skipped, {number} of {len(broken)} files: {path}: {why}')
    if len(paths) < MIN_EXAMPLES:
        raise ValueError(f'{args.images!r} has {len(paths)} readable images; '
                         f'CKA needs at least {MIN_EXAMPLES}, and is noisy '
                         'below some hundred.')
    # The last batch must not be too small: below two batches of 4, one.
    number = min(-(-len(paths) // args.batch_size),
                 len(paths) // MIN_EXAMPLES)
    return DataLoader(
        image_files.ImageFiles(paths, img_size, args.crop_pct, channels),
        batch_sampler=[
            part.tolist()
            for part in torch.arange(len(paths)).tensor_split(number)
        ],
        num_workers=args.num_workers,
        collate_fn=default_collate,
        generator=generator)  # not the one that draws the masks


def _with_progress(batches: DataLoader) -> Iterator[dict]:
    """Say about ten times how far it is, and how long it will take."""
    start, total = time.time(), len(batches)
    for done, batch in enumerate(batches):
        if done and done * 10 // total > (done - 1) * 10 // total:
            left = (time.time() - start) / done * (total - done)
            print(f'batch {done} of {total}, {left:.0f} s left', flush=True)
        yield batch


def _listed(name: str, pairs: Iterable[Pair]) -> str:
    layers = [(pair.student, pair.teacher) for pair in pairs]
    values = ', '.join(f'{pair.cka:.3f}' for pair in pairs)
    return f'{name + ":":14s}aligned_layers={layers}, CKA {values}'


if __name__ == '__main__':
    main()
