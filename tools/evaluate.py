"""Evaluate models: nearest neighbours and a linear probe of their features.

    python tools/evaluate.py MODEL CHECKPOINT --train DIR --test DIR
    python tools/evaluate.py MODEL --train DIR --test DIR
        [--beside MODEL ...] [--untrained]

With a CHECKPOINT, MODEL is the config that it was trained with (each run
leaves it in its work dir) or a name of mmpretrain's model zoo; no teacher is
needed. Without, MODEL is what a training takes as --teacher: NAME or
NAME=FILE of any model of timm, a checkpoint of a run or a FILE exported from
one, any other FILE as long as there is no doubt whose it is, the FOLDER of a
model of Hugging Face transformers, or CONFIG=FILE. --beside puts further
models into one table. Each model gets the images with its own mean, std and
size; its features are those of its last block behind the final norm.

DIR has one sub-folder a class. The features of whole images are extracted
once and kept in a file; they are compared by

    --knn     the k nearest neighbours, by cosine similarity
    --linear  a logistic regression on standardised features, which is not
              MAE's linear probe of 90 epochs with augmentation: that is
              tools/train.py with configs/benchmarks/vit-*_linear_in1k.py

and by both if neither is given. Nothing in a checkpoint is executed; a config
is code.
"""
import argparse
import json
import os.path as osp
import sys
from dataclasses import replace
from typing import Any, Dict, List, Optional

ROOT = osp.dirname(osp.dirname(osp.abspath(__file__)))
if osp.isdir(osp.join(ROOT, 'dmae_mm')):
    # A clone runs its own code, installed or not: see train.py.
    sys.path.insert(0, ROOT)

from dmae_mm.evaluation import (POOLINGS, ProbedModel,  # noqa: E402
                                probe_models)
from dmae_mm.evaluation.command_line import (at_least,  # noqa: E402
                                             new_parser, run)
from dmae_mm.files import check_place, write_whole  # noqa: E402


def build_parser() -> argparse.ArgumentParser:
    parser = new_parser(__doc__, '--crop-pct', '--value-range',
                        '--num-workers', '--device')
    add = parser.add_argument
    add('model', metavar='MODEL',
        help="path of a config, or name in mmpretrain's model zoo; alone: "
        'see above')
    add('checkpoint', metavar='CHECKPOINT', nargs='?',
        help='path or http(s) URL')
    add('--beside', metavar='MODEL', action='append', default=[],
        help='another model, as MODEL alone; can be given several times')
    add('--untrained', action='store_true',
        help='also MODEL without its weights, initialised from a fixed seed')
    add('--train', required=True, metavar='DIR',
        help='images to learn from, one sub-folder a class')
    add('--test', required=True, metavar='DIR',
        help='images to classify, in the same sub-folders')
    add('--train-list', metavar='FILE',
        help='learn only from the images that this list of '
        'tools/make_subset.py names')
    add('--knn', action='store_true', help='nearest neighbours')
    add('--linear', action='store_true', help='logistic regression')
    add('-k', '--neighbors', dest='k', type=int, default=5, metavar='K',
        help='number of neighbours; defaults to 5')
    add('--features', choices=POOLINGS, default='mean',
        help='mean of the patch tokens (default), or CLS token')
    add('--img-size', type=at_least(1), metavar='PIXELS',
        help='height and width that the model gets; defaults to those that '
        'it is made for, 224 if it takes any')
    add('--batch-size', type=at_least(1), default=128,
        help='defaults to 128')
    add('--json', metavar='FILE', help='write the results there as well')
    add('--cache', metavar='DIR', default=osp.join('work_dirs', 'evaluate'),
        help='where features are kept; defaults to work_dirs/evaluate')
    return parser


def evaluate(args: argparse.Namespace) -> None:
    options = vars(args)
    path = options.pop('json')
    if path is not None:
        check_place(path)
    if not args.knn and not args.linear:
        options.update(knn=True, linear=True)
    first = ProbedModel(options.pop('model'), options.pop('checkpoint'))
    models = [first]
    if options.pop('untrained'):
        models.append(replace(first, untrained=True))
    models += map(ProbedModel, options.pop('beside'))
    rows = probe_models(models, **options)
    print(table(rows) if len(rows) > 1 else describe(rows[0]))
    if path is not None:
        with write_whole(path) as unfinished, open(unfinished, 'w') as file:
            json.dump(dict(rows[0], rows=rows), file, indent=2)


def describe(results: Dict[str, Any]) -> str:
    """What was evaluated, and the accuracies."""
    lines = [
        f'{results["source"]} (sha256 {results["sha256"][:8]})' +
        ', averaged over training (EMA)' * results['averaged'],
        f'{_images(results)}, {results["img_size"]} px; '
        f'{_features(results)}, {results["width"]} wide'
    ]
    if 'knn' in results:
        lines.append(f'kNN (k={results["k"]}): {results["knn"]:.2f}')
    if 'linear' in results:
        lines.append(f'logistic regression: {results["linear"]:.2f}')
    return '\n'.join([*lines, 'Accuracies in percent.'])


def table(rows: List[Dict[str, Any]]) -> str:
    """One line a model."""
    first = rows[0]
    head = ['model', 'parameters', 'px', 'width']
    head += [f'kNN (k={first["k"]})'] * ('knn' in first)
    head += ['linear'] * ('linear' in first)
    cells = [head] + [[
        row['name'], f'{row["parameters"] / 1e6:.1f} M', str(row['img_size']),
        str(row['width']),
        *(f'{row[kind]:.2f}' for kind in ('knn', 'linear') if kind in row)
    ] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells)]
    lines = [
        '  '.join([line[0].ljust(widths[0])] + [
            cell.rjust(width) for cell, width in zip(line[1:], widths[1:])
        ]) for line in cells
    ]
    return '\n'.join([
        *lines, f'{_images(first)}; {_features(first)}. Accuracies in '
        'percent.'
    ])


def _images(row: Dict[str, Any]) -> str:
    return (f'{row["train_images"]} training and {row["test_images"]} test '
            f'images of {row["classes"]} classes')


def _features(row: Dict[str, Any]) -> str:
    return f'features: {row["features"]}'


def main(argv: Optional[List[str]] = None) -> None:
    run(build_parser(), argv, evaluate)


if __name__ == '__main__':
    main()
