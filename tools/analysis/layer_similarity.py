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
import json
import os.path as osp
import sys
from pathlib import Path
from typing import List, Optional

ROOT = osp.dirname(osp.dirname(osp.dirname(osp.abspath(__file__))))
if osp.isdir(osp.join(ROOT, 'dmae_mm')):
    # A clone runs its own code, installed or not: see train.py.
    sys.path.insert(0, ROOT)

from dmae_mm.evaluation.cka import MIN_EXAMPLES  # noqa: E402
from dmae_mm.evaluation.command_line import (at_least,  # noqa: E402
                                             new_parser, run)
from dmae_mm.evaluation.layer_similarity import compare_layers  # noqa: E402
from dmae_mm.evaluation.pictures import (check_png,  # noqa: E402
                                         draw_layer_similarity, write_png)
from dmae_mm.files import write_whole  # noqa: E402


def build_parser() -> argparse.ArgumentParser:
    parser = new_parser(__doc__, '--num-workers', '--crop-pct',
                        '--value-range', '--device', '--cfg-options')
    add = parser.add_argument
    add('config', metavar='CONFIG', help='path of a config')
    add('--images', required=True, metavar='FOLDER',
        help='images, in sub-folders or not')
    add('--checkpoint', metavar='STUDENT',
        help='path or http(s) URL of the trained student, with or without '
        'its decoder; without it, the student is untrained')
    add('--teacher', metavar='NAME',
        help='which one, of a config with several teachers')
    add('--num-images', type=at_least(MIN_EXAMPLES), default=1024, metavar='N',
        help='images that are drawn from the folder, broken ones skipped; '
        'defaults to 1024, or all where there are fewer')
    add('--out', metavar='PNG', default='layer_similarity.png',
        help='the picture, with a .json beside it; defaults to '
        'layer_similarity.png')
    add('--batch-size', type=at_least(MIN_EXAMPLES), default=64,
        help='images of a batch: memory, and noise, but no bias; defaults to '
        '64')
    add('--seed', type=at_least(0), default=0,
        help='of the choice of images, the masks and an untrained student; '
        'defaults to 0')
    return parser


def compare(args: argparse.Namespace) -> None:
    options = vars(args)
    out = options.pop('out')
    check_png(out)
    results = compare_layers(**options)
    skipped = results['skipped']
    for number, (path, why) in enumerate(skipped, 1):
        print(f'skipped, {number} of {len(skipped)} files: {path}: {why}')
    json_path = f'{out[:-len(".png")]}.json'
    with write_whole(json_path) as unfinished, open(unfinished, 'w') as file:
        json.dump(results, file, indent=2)
    state = 'untrained' if args.checkpoint is None else '/'.join(
        Path(args.checkpoint).parts[-2:])
    named = f', teacher {args.teacher}' * bool(args.teacher)
    title = (f'{osp.basename(args.config)}, student {state}{named}\n'
             f'{results["num_images"]} images, '
             f'mask ratio {results["mask_ratio"]}')
    write_png(out, draw_layer_similarity(results, title))
    for name, pairs in (('3/4 rule:', [results['rule']]),
                        ('most similar:', results['most_similar'])):
        layers = [(pair['student'], pair['teacher']) for pair in pairs]
        values = ', '.join(f'{pair["cka"]:.3f}' for pair in pairs)
        print(f'{name:14s}aligned_layers={layers}, CKA {values}')
    print('CKA does not say what a student gains by a pair: see --help.\n'
          f'{out}, {json_path}')


def main(argv: Optional[List[str]] = None) -> None:
    run(build_parser(), argv, compare)


if __name__ == '__main__':
    main()
