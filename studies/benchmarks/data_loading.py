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
import copy
import functools
import itertools
import statistics
import sys
import tempfile
import time
from argparse import Namespace
from pathlib import Path
from typing import Callable, Dict, List

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
from torch.utils.data import DataLoader

# A clone runs its own code, installed or not: see train.py.
sys.path.insert(0, str(Path(__file__).parents[2]))

from studies.benchmarks.machine import name_of  # noqa: E402
from studies.benchmarks.measuring import (CONFIG,  # noqa: E402
                                          command_line, config_file, in_turns,
                                          ratios, show, spread, taken_by,
                                          write_json)

from dmae_mm.datasets import EXTENSIONS  # noqa: E402
from dmae_mm.datasets.folders import image_folder  # noqa: E402
from dmae_mm.evaluation.images import (check_readable,  # noqa: E402
                                       paths_of)

STOCK = Config.fromstring(
    "_base_ = 'mmpretrain::_base_/datasets/imagenet_bs512_mae.py'",
    '.py').train_pipeline
FLOOR = 'reading and decoding'


def photographs() -> List[Image.Image]:
    """Real ones, which packages ship that the tests need."""
    from skimage import data
    from sklearn.datasets import load_sample_images
    pixels = [getattr(data, name)()
              for name in ('astronaut', 'chelsea', 'coffee', 'rocket')]
    return [Image.fromarray(array)
            for array in (*pixels, *load_sample_images().images)]


def make_images(folder: str, quality: int = 98) -> None:
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


def per_core(pipeline: List[dict],
             paths: List[str]) -> Dict[str, Callable[[], float]]:
    """What is timed, as functions that return the seconds an image."""
    stock, ours = Compose(copy.deepcopy(STOCK)), Compose(pipeline)

    def task(do: Callable[[str], object]) -> Callable[[], float]:
        seeds = itertools.count()  # the same crops for all

        def seconds_an_image() -> float:
            np.random.seed(next(seeds))
            return taken_by(
                lambda: [do(path) for path in paths]).cpu_seconds / len(paths)

        return seconds_an_image

    return {
        'reading the file': task(fileio.get),
        FLOOR: task(lambda path: mmcv.imfrombytes(fileio.get(path))),
        'stock pipeline': task(lambda path: stock(dict(img_path=path))),
        'ours': task(lambda path: ours(dict(img_path=path))),
    }


def seconds_an_image(loader: DataLoader, skip: int = 1) -> float:
    """Of a whole data loader, without its start and the first batches."""
    batches = iter(loader)
    for _ in range(skip):
        next(batches)
    start = time.perf_counter()
    images = sum(len(batch['inputs']) for batch in batches)
    return (time.perf_counter() - start) / images


def build_loader(cfg: Config, pipeline: List[dict], folder: str, images: int,
                 args: Namespace) -> DataLoader:
    """The config's, with another pipeline, of at least 6 batches."""
    dataset = dict(
        type='CustomDataset',
        data_root=folder,
        with_label=False,
        extensions=EXTENSIONS,
        pipeline=copy.deepcopy(pipeline))
    options = cfg.train_dataloader.to_dict()
    options.pop('worker_init_fn', None)
    options.update(
        batch_size=args.batch_size,
        num_workers=args.workers,
        persistent_workers=True,
        drop_last=True,
        sampler=dict(type='DefaultSampler', shuffle=True),
        dataset=dict(
            type='RepeatDataset',
            dataset=dataset,
            times=-(-6 * args.batch_size // images)))
    return Runner.build_dataloader(options, seed=0)


def summarise(seconds: Dict[str, List[float]], stock: str) -> Dict[str, dict]:
    """Medians and spreads of rates, and of ratios to the stock pipeline."""
    return {
        name: dict(
            microseconds=1e6 * statistics.median(times),
            images_per_second=1 / statistics.median(times),
            images_per_second_min=1 / max(times),
            images_per_second_max=1 / min(times),
            **ratios(seconds[stock], times))
        for name, times in seconds.items()
    }


def show_result(result: Dict[str, dict]) -> None:
    show([{
        '': name,
        'us/image': f'{row["microseconds"]:,.0f}',
        'images/s': f'{row["images_per_second"]:,.0f}',
        'min - max': f'{row["images_per_second_min"]:,.0f} - '
        f'{row["images_per_second_max"]:,.0f}',
        'ratio': f'{row["ratio"]:.2f}',
        'min - max ': spread(row),
    } for name, row in result.items()])


def measure(args: Namespace, folder: str) -> dict:
    cfg = Config.fromfile(args.config)
    init_default_scope(cfg.default_scope)
    paths = paths_of(image_folder(folder))
    check_readable(paths)
    size = statistics.mean(Path(path).stat().st_size for path in paths)
    print(f'{name_of("cpu")}; {len(paths)} files of {size / 1000:.0f} kB on '
          f'average; median of {args.rounds} turns')
    cores = summarise(
        in_turns(per_core(cfg.train_pipeline, paths), args.rounds),
        'stock pipeline')
    show_result(cores)
    result = dict(
        machine=name_of('cpu'),
        opencv=cv2.__version__,
        torch=torch.__version__,
        file_bytes=size,
        per_core=cores)
    print(f'If all but reading and decoding took no time, ours would be '
          f'{cores[FLOOR]["ratio"]:.2f} times the stock pipeline.')
    if args.workers:
        loaders = {
            name: build_loader(cfg, pipeline, folder, len(paths), args)
            for name, pipeline in (('loader, stock', STOCK),
                                   ('loader, ours', cfg.train_pipeline))
        }
        result['loader'] = summarise(
            in_turns(
                {
                    name: functools.partial(seconds_an_image, loader)
                    for name, loader in loaders.items()
                }, args.rounds), 'loader, stock')
        print(f'Whole loader, {args.workers} workers:')
        show_result(result['loader'])
    ours, needed = cores['ours']['images_per_second'], args.step_rate
    print(f'By arithmetic, {args.cores} cores load {args.cores * ours:,.0f} '
          'images/s' + (f'; the training takes {needed:,.0f}, which is '
                        f'{needed / ours:.1f} cores.' if needed else '.'))
    return dict(
        result,
        cores=args.cores,
        images_per_second_by_arithmetic=args.cores * ours,
        step_rate=needed)


def main() -> None:
    parser = command_line(__doc__, rounds=15, batch_size=32)
    parser.add_argument(
        '--config',
        type=config_file,
        default=CONFIG,
        help='whose train_pipeline is timed')
    parser.add_argument(
        '--images', help='a folder of images, in place of those made')
    parser.add_argument(
        '--quality',
        type=int,
        default=98,
        help='of the JPEGs made; 98 gives about 110 kB an image, 90 about 50')
    parser.add_argument(
        '--workers', type=int, default=2, help='0: the loader is left out')
    parser.add_argument(
        '--cores', type=int, default=16, help='for the arithmetic')
    parser.add_argument(
        '--step-rate',
        type=float,
        help='images per second that the training takes, of all GPUs that '
        'these cores feed: see step_time.py')
    args = parser.parse_args()

    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    with tempfile.TemporaryDirectory() as made:
        if args.images is None:
            make_images(made, args.quality)
        write_json(args.json, **measure(args, args.images or made))


if __name__ == '__main__':
    main()
