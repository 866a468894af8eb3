"""Evaluate a pre-trained model: nearest neighbours and a linear probe.

    python tools/evaluate.py MODEL CHECKPOINT --train DIR --test DIR

MODEL is the config that the checkpoint was trained with (each run leaves it
in its work dir) or a name of mmpretrain's model zoo; no teacher is needed.
DIR has one sub-folder a class. The features of whole images are extracted
once and kept in a file; they are compared by

    --knn     the k nearest neighbours, by cosine similarity
    --linear  a logistic regression on standardised features, which is not
              MAE's linear probe of 90 epochs with augmentation: that is
              tools/train.py with configs/benchmarks/vit-*_linear_in1k.py

and by both if neither is given. Nothing in CHECKPOINT is executed; a config
is code.
"""
import argparse
import json
import os
import os.path as osp
import sys
import tempfile
from typing import List, Optional

ROOT = osp.dirname(osp.dirname(osp.abspath(__file__)))
if osp.isdir(osp.join(ROOT, 'dmae_mm')):
    # A clone runs its own code, installed or not: see train.py.
    sys.path.insert(0, ROOT)

from dmae_mm.evaluation import (POOLINGS, FeatureModel,  # noqa: E402
                              cached_features, check_scikit_learn,
                              check_splits, image_size, knn_accuracy,
                              labelled_images, linear_probe_accuracy)
from mmengine.device import get_device  # noqa: E402


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        'model',
        metavar='MODEL',
        help="path of a config, or name in mmpretrain's model zoo")
    parser.add_argument(
        'checkpoint', metavar='CHECKPOINT', help='path or http(s) URL')
    parser.add_argument(
        '--train',
        required=True,
        metavar='DIR',
        help='images to learn from, one sub-folder a class')
    parser.add_argument(
        '--test',
        required=True,
        metavar='DIR',
        help='images to classify, in the same sub-folders')
    parser.add_argument(
        '--train-list',
        metavar='FILE',
        help='learn only from the images that this list of '
        'tools/make_subset.py names')
    parser.add_argument(
        '--knn', action='store_true', help='nearest neighbours')
    parser.add_argument(
        '--linear', action='store_true', help='logistic regression')
    parser.add_argument(
        '-k',
        '--neighbors',
        type=int,
        default=5,
        metavar='K',
        help='number of neighbours; defaults to 5')
    parser.add_argument(
        '--features',
        choices=POOLINGS,
        default='mean',
        help='mean of the patch tokens (default), or CLS token')
    parser.add_argument(
        '--crop-pct',
        type=float,
        default=0.875,
        metavar='PART',
        help='part of the shorter side that the central crop keeps; defaults '
        'to 0.875: 224 of 256 pixels')
    parser.add_argument(
        '--batch-size', type=int, default=128, help='defaults to 128')
    parser.add_argument(
        '--num-workers',
        type=int,
        default=2,
        help='processes that read images; defaults to 2')
    parser.add_argument(
        '--device', help="defaults to 'cuda' where there is one, or 'cpu'")
    parser.add_argument(
        '--json', metavar='FILE', help='write the results there as well')
    parser.add_argument(
        '--cache',
        metavar='DIR',
        default=osp.join('work_dirs', 'evaluate'),
        help='where features are kept; defaults to work_dirs/evaluate')
    return parser


def evaluate(args: argparse.Namespace) -> dict:
    """Do what the command line says.

    Returns:
        dict: What was evaluated, and the accuracies in percent.
    """
    for name, value, least in (('--batch-size', args.batch_size, 1),
                               ('--num-workers', args.num_workers, 0)):
        if value < least:
            raise ValueError(f'{name} {value} is not at least {least}.')
    check_scikit_learn()
    model = FeatureModel(args.model, args.checkpoint)
    img_size = image_size(model.backbone)
    train = labelled_images(args.train, img_size, args.crop_pct,
                            args.train_list)
    test = labelled_images(args.test, img_size, args.crop_pct)
    both = args.knn == args.linear
    check_splits(train, test, args.neighbors if args.knn or both else 1)
    try:
        model.to(args.device or get_device())
    except (AssertionError, RuntimeError) as error:  # by where torch notices
        raise ValueError(f'--device {args.device}: {error}') from None
    splits = [
        cached_features(model, dataset, args.features, args.cache, title,
                        args.batch_size, args.num_workers)
        for title, dataset in (('train', train), ('test', test))
    ]
    results = dict(
        model=args.model,
        checkpoint=args.checkpoint,
        sha256=model.file.sha256,
        averaged=model.file.is_averaged,
        train=args.train,
        train_list=args.train_list,
        test=args.test,
        train_images=len(train),
        test_images=len(test),
        classes=len(train.CLASSES),
        img_size=img_size,
        crop_pct=args.crop_pct,
        features=args.features,
        width=splits[0][0].shape[1])
    if args.knn or both:
        results.update(
            k=args.neighbors, knn=knn_accuracy(*splits, args.neighbors))
    if args.linear or both:
        results['linear'] = linear_probe_accuracy(*splits)
    return results


def check_writable(path: str) -> None:
    """Find out now, not after the work."""
    if osp.isdir(path):
        raise IsADirectoryError(f'--json {path} is a folder.')
    folder = osp.dirname(osp.abspath(path))
    os.makedirs(folder, exist_ok=True)
    tempfile.TemporaryFile(dir=folder).close()


def describe(results: dict) -> str:
    """What was evaluated, and the accuracies."""
    lines = [
        f'{results["checkpoint"]} (sha256 {results["sha256"][:8]})' +
        ', averaged over training (EMA)' * results['averaged'],
        f'{results["train_images"]} training and {results["test_images"]} '
        f'test images of {results["classes"]} classes, '
        f'{results["img_size"]} px; features: {results["features"]}, '
        f'{results["width"]} wide'
    ]
    if 'knn' in results:
        lines.append(f'kNN (k={results["k"]}): {results["knn"]:.2f}')
    if 'linear' in results:
        lines.append(f'logistic regression: {results["linear"]:.2f}')
    return '\n'.join([*lines, 'Accuracies in percent.'])


def main(argv: Optional[List[str]] = None) -> None:
    parser = build_parser()
    args = parser.parse_args(argv)
    try:
        if args.json is not None:
            check_writable(args.json)
        results = evaluate(args)
    except (ImportError, OSError, ValueError) as error:
        parser.error(str(error))
    print(describe(results))
    if args.json is not None:
        with open(args.json, 'w') as file:
            json.dump(results, file, indent=2)


if __name__ == '__main__':
    main()
