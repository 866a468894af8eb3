"""Images per second of the data pipeline: mmpretrain's stock one and ours.

Per core, in this process and one thread: reading a file, reading and decoding
it, mmpretrain's pipeline for MAE, and the pipeline of a config. Then the whole
data loader with worker processes. All run in turn, and each turn yields the
ratios to the stock pipeline, so that a machine whose speed drifts does not
decide the result. Decoding is the floor of any pipeline that decodes whole
images; what the ratio would be if all else took no time is in the table.

Without --images, the images are made from the photographs in scikit-image and
scikit-learn: 500 x 375 pixels, JPEG, about 100 kB each, which is what an image
of ImageNet has on average.
"""
import argparse
import copy
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Callable, Dict, List

import _machine as machine
import cv2
import mmcv
import mmengine.fileio as fileio
import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from PIL import Image

from dmae_mm.evaluation.images import (check_readable, image_folder,
                                       paths_of)
from dmae_mm.datasets import EXTENSIONS

# mmpretrain's configs/_base_/datasets/imagenet_bs512_mae.py.
STOCK = [
    dict(type='LoadImageFromFile'),
    dict(
        type='RandomResizedCrop',
        scale=224,
        crop_ratio_range=(0.2, 1.0),
        backend='pillow',
        interpolation='bicubic'),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackInputs')
]
FLOOR = 'reading and decoding'


def photographs() -> List[Image.Image]:
    """Real ones, which packages ship that the tests need."""
    from skimage import data
    from sklearn.datasets import load_sample_images
    pixels = [getattr(data, name)()
              for name in ('astronaut', 'chelsea', 'coffee', 'rocket')]
    return [Image.fromarray(array)
            for array in (*pixels, *load_sample_images().images)]


def make_images(folder: str, quality: int) -> None:
    """Four images a photograph: as it is, mirrored, upside down, and both."""
    for index, photo in enumerate(photographs()):
        width = min(photo.width, photo.height * 4 // 3)
        height = width * 3 // 4
        photo = photo.crop((0, 0, width, height)).resize(
            (500, 375), Image.BICUBIC)
        for turn in range(4):
            if turn % 2:
                photo = photo.transpose(Image.FLIP_LEFT_RIGHT)
            elif turn:
                photo = photo.transpose(Image.FLIP_TOP_BOTTOM)
            photo.save(f'{folder}/{index}-{turn}.jpg', quality=quality)


def per_core(pipeline: List[dict]) -> Dict[str, Callable]:
    """What is timed for each image."""
    stock, ours = Compose(copy.deepcopy(STOCK)), Compose(pipeline)
    return {
        'reading the file': fileio.get,
        FLOOR: lambda path: mmcv.imfrombytes(fileio.get(path)),
        'stock pipeline': lambda path: stock(dict(img_path=path)),
        'ours': lambda path: ours(dict(img_path=path)),
    }


def time_per_core(tasks: Dict[str, Callable], paths: List[str],
                  rounds: int) -> Dict[str, List[float]]:
    """Seconds an image, for each turn; the first turn warms up."""
    seconds: Dict[str, List[float]] = {name: [] for name in tasks}
    for turn in range(-1, rounds):
        for name, task in tasks.items():
            np.random.seed(turn + 1)  # the same crops for all
            start = time.process_time()
            for path in paths:
                task(path)
            if turn >= 0:
                seconds[name].append(
                    (time.process_time() - start) / len(paths))
        show_progress(turn, rounds)
    return seconds


def time_loaders(cfg: Config, folder: str, images: int, workers: int,
                 batch_size: int, rounds: int) -> Dict[str, List[float]]:
    """Seconds an image of the whole loader, without its start."""
    loaders = {}
    for name, pipeline in (('loader, stock', STOCK),
                           ('loader, ours', cfg.train_pipeline)):
        options = copy.deepcopy(cfg.train_dataloader)
        options.update(
            batch_size=batch_size,
            num_workers=workers,
            persistent_workers=True,
            drop_last=True,
            sampler=dict(type='DefaultSampler', shuffle=True))
        options.pop('worker_init_fn', None)
        repeats = -(-6 * batch_size // images)  # at least 6 batches
        options.dataset = dict(
            type='CustomDataset',
            data_root=folder,
            with_label=False,
            extensions=EXTENSIONS,
            pipeline=copy.deepcopy(pipeline))
        options.dataset = dict(
            type='RepeatDataset', dataset=options.dataset, times=repeats)
        loaders[name] = Runner.build_dataloader(options, seed=0)
    seconds: Dict[str, List[float]] = {name: [] for name in loaders}
    for turn in range(-1, rounds):
        for name, loader in loaders.items():
            batches = iter(loader)
            next(batches)
            start, number = time.perf_counter(), 0
            for _ in batches:
                number += batch_size
            if turn >= 0:
                seconds[name].append((time.perf_counter() - start) / number)
        show_progress(turn, rounds)
    return seconds


def show_progress(turn: int, rounds: int) -> None:
    if sys.stdout.isatty():
        print(f'  turn {turn + 1}/{rounds}', end='\r', flush=True)


def summarise(seconds: Dict[str, List[float]], stock: str) -> Dict[str, dict]:
    """Medians and spreads of rates, and of ratios to the stock pipeline."""
    result = {}
    for name, times in seconds.items():
        ratios = [base / own for base, own in zip(seconds[stock], times)]
        result[name] = dict(
            microseconds=1e6 * statistics.median(times),
            images_per_second=1 / statistics.median(times),
            images_per_second_min=1 / max(times),
            images_per_second_max=1 / min(times),
            ratio=statistics.median(ratios),
            ratio_min=min(ratios),
            ratio_max=max(ratios))
    return result


def as_table(result: Dict[str, dict]) -> List[Dict[str, object]]:
    return [{
        '': name,
        'us/image': f'{row["microseconds"]:,.0f}',
        'images/s': f'{row["images_per_second"]:,.0f}',
        'min - max': f'{row["images_per_second_min"]:,.0f} - '
        f'{row["images_per_second_max"]:,.0f}',
        'ratio': f'{row["ratio"]:.2f}',
        'min - max ': f'{row["ratio_min"]:.2f} - {row["ratio_max"]:.2f}',
    } for name, row in result.items()]


def measure(args: argparse.Namespace, folder: str) -> dict:
    cfg = Config.fromfile(args.config)
    init_default_scope(cfg.default_scope)
    paths = paths_of(image_folder(folder))
    check_readable(paths)
    size = statistics.mean(Path(path).stat().st_size for path in paths)
    print(f'{machine.name_of("cpu")}; {len(paths)} files of '
          f'{size / 1000:.0f} kB on average; median of {args.rounds} turns')
    cores = summarise(
        time_per_core(per_core(cfg.train_pipeline), paths, args.rounds),
        'stock pipeline')
    machine.show(as_table(cores))
    result = dict(
        machine=machine.name_of('cpu'),
        opencv=cv2.__version__,
        torch=torch.__version__,
        file_bytes=size,
        per_core=cores)
    ours = cores['ours']['images_per_second']
    print(f'If all but reading and decoding took no time, ours would be '
          f'{cores[FLOOR]["ratio"]:.2f} times the stock pipeline.')
    if args.workers:
        result['loader'] = summarise(
            time_loaders(cfg, folder, len(paths), args.workers,
                         args.batch_size, args.rounds), 'loader, stock')
        print(f'Whole loader, {args.workers} workers:')
        machine.show(as_table(result['loader']))
    needed = args.step_rate
    print(f'By arithmetic, {args.cores} cores load {args.cores * ours:,.0f} '
          'images/s' + (f'; the training takes {needed:,.0f}, which is '
                        f'{needed / ours:.1f} cores.' if needed else '.'))
    result.update(
        cores=args.cores,
        images_per_second_by_arithmetic=args.cores * ours,
        step_rate=needed)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument(
        '--config',
        default='configs/dmae/vit-s_dmae_in1k.py',
        help='whose train_pipeline is timed')
    parser.add_argument(
        '--images', help='a folder of images, in place of those made')
    parser.add_argument(
        '--quality',
        type=int,
        default=98,
        help='of the JPEGs made; 98 gives about 110 kB an image, 90 about 50')
    parser.add_argument('--rounds', type=int, default=15)
    parser.add_argument(
        '--workers', type=int, default=2, help='0: the loader is left out')
    parser.add_argument('--batch-size', type=int, default=32)
    parser.add_argument(
        '--cores', type=int, default=16, help='for the arithmetic')
    parser.add_argument(
        '--step-rate',
        type=float,
        help='images per second that the training takes, of all GPUs that '
        'these cores feed: see step_time.py')
    parser.add_argument('--json', help='also write the results to this file')
    args = parser.parse_args()

    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    with tempfile.TemporaryDirectory() as made:
        if args.images is None:
            make_images(made, args.quality)
        machine.write_json(args.json, measure(args, args.images or made))


if __name__ == '__main__':
    main()
