"""Images per second of tools/train.py itself, and what limits it.

Three measurements with the same config:

1. tools/train.py trains on JPEG files that this script makes: crops of
   scikit-learn's two photographs, 500 x 375 px, as large as ImageNet's on
   average. The seconds of each iteration are those that it logs.
2. The data loader alone, with the same workers: nothing is trained.
3. The step alone, on one batch that is on the device already.

The slower of the last two limits training. How many cores the loader needs to
keep up with the step is arithmetic: images a second of one worker, measured,
times the number of cores. Training that needs the CPU itself shares it with
the workers, so that on a machine without a GPU the first is slower than both.

    python studies/benchmarks/end_to_end.py --workers 2
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Dict, List

import torch
from mmengine.config import Config, DictAction
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmpretrain.registry import MODELS
from PIL import Image
from sklearn.datasets import load_sample_images

# A clone runs its own code, installed or not: see train.py.
ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

import dmae_mm  # noqa: E402, F401
from _machine import name_of, show, synchronizer, write_json  # noqa: E402

SIZE = (500, 375)
WARM_UP = 3  # iterations that do not count


def make_photos(folder: Path, number: int) -> None:
    """Crops of two photographs as JPEG files of quality 90."""
    generator = torch.Generator().manual_seed(0)
    photos = [Image.fromarray(array) for array in load_sample_images().images]
    folder.mkdir(parents=True)
    for i in range(number):
        photo = photos[i % len(photos)]
        left, top = (torch.rand(2, generator=generator) * 0.4).tolist()
        box = (left * photo.width, top * photo.height,
               (left + 0.6) * photo.width, (top + 0.6) * photo.height)
        photo.resize(SIZE, Image.BICUBIC, box=box).save(
            folder / f'{i:05}.jpg', quality=90)


def options_of(args: argparse.Namespace, photos: Path) -> dict:
    """What is changed in the config."""
    return {
        'model.teacher.checkpoint': None,
        'model.teacher.allow_random': True,
        'train_dataloader.dataset.data_root': str(photos),
        'train_dataloader.batch_size': args.batch_size,
        'train_dataloader.num_workers': args.workers,
        'train_cfg.max_epochs': 1,
        'optim_wrapper.accumulative_counts': 1,
        'default_hooks.logger.interval': 1,
        'default_hooks.checkpoint.interval': 1000,
        'default_hooks.checkpoint.save_last': False,
        'log_processor.window_size': 1,
        **args.cfg_options
    }


def train(config: str, options: dict, work_dir: Path) -> List[dict]:
    """Run tools/train.py; one dict for each iteration that it logs."""
    command = [
        sys.executable,
        str(ROOT / 'tools' / 'train.py'), config, '--work-dir',
        str(work_dir), '--cfg-options',
        *(f'{key}={value}' for key, value in options.items())
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f'{" ".join(command)}\nfailed:\n'
                         f'{done.stdout[-2000:]}{done.stderr[-4000:]}')
    log, = work_dir.glob('*/vis_data/scalars.json')
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    return [line for line in lines if 'data_time' in line]


def load_alone(cfg: Config, iterations: int) -> float:
    """Images a second of the data loader."""
    loader = Runner.build_dataloader(cfg.train_dataloader, seed=0)
    batches = iter(loader)
    # What the workers have loaded in advance must not count.
    prefetched = max(WARM_UP, 2 * cfg.train_dataloader.num_workers)
    for _ in range(prefetched):
        next(batches)
    start, images = time.perf_counter(), 0
    for _ in range(iterations - prefetched):
        images += len(next(batches)['inputs'])
    return images / (time.perf_counter() - start)


def step_alone(cfg: Config, device: str, iterations: int) -> float:
    """Images a second of the training step on one batch."""
    model = MODELS.build(
        dict(cfg.model, data_preprocessor=cfg.data_preprocessor))
    model.init_weights()
    model.to(device).train()
    wrapper_cfg = cfg.optim_wrapper
    if device == 'cpu':  # as tools/train.py
        wrapper_cfg.update(type='OptimWrapper')
        for key in ('loss_scale', 'dtype'):
            wrapper_cfg.pop(key, None)
    wrapper = build_optim_wrapper(model, wrapper_cfg)
    batch = next(iter(Runner.build_dataloader(cfg.train_dataloader, seed=0)))
    batch = model.data_preprocessor.cast_data(batch)
    synchronize, seconds = synchronizer(device), []
    for _ in range(WARM_UP + iterations):
        start = time.perf_counter()
        model.train_step(batch, wrapper)
        synchronize()
        seconds.append(time.perf_counter() - start)
    return len(batch['inputs']) / statistics.median(seconds[WARM_UP:])


def measure(args: argparse.Namespace, folder: Path) -> Dict[str, object]:
    """All three, and what follows."""
    make_photos(folder / 'photos', args.batch_size * args.iterations)
    options = options_of(args, folder / 'photos')
    lines = train(args.config, options, folder / 'run')[WARM_UP:]
    cfg = Config.fromfile(args.config)
    cfg.merge_from_dict(options)
    cfg.train_dataloader.persistent_workers = False
    init_default_scope(cfg.default_scope)
    trained = args.batch_size * len(lines) / sum(
        line['time'] for line in lines)
    loaded = load_alone(cfg, args.iterations)
    stepped = step_alone(cfg, args.device, args.step_iterations)
    per_core = loaded / max(1, min(args.workers, os.cpu_count()))
    return dict(
        training=trained,
        loader=loaded,
        step=stepped,
        waiting=sum(line['data_time'] for line in lines) / sum(
            line['time'] for line in lines),
        limit='loader' if loaded < stepped else 'step',
        loader_per_core=per_core,
        cores_needed=stepped / per_core,
        with_cores={
            str(cores): min(stepped, per_core * cores)
            for cores in args.cores
        })


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument(
        'config', nargs='?', default='configs/dmae/vit-s_dmae_in1k.py')
    parser.add_argument('--batch-size', type=int, default=8)
    parser.add_argument('--workers', type=int, default=2)
    parser.add_argument(
        '--iterations',
        type=int,
        default=20,
        help='batches to train on and to load; the more, the truer')
    parser.add_argument(
        '--step-iterations',
        type=int,
        default=5,
        help='repetitions of the step alone')
    parser.add_argument(
        '--cores',
        type=int,
        nargs='+',
        default=[2, 8, 16, 32, 64],
        help='numbers of cores to extrapolate to')
    parser.add_argument(
        '--device', default='cuda' if torch.cuda.is_available() else 'cpu',
        help='of the step alone; tools/train.py takes what there is')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        default={},
        metavar='KEY=VALUE',
        help='change the config, as in tools/train.py')
    parser.add_argument('--json', help='also write the results to this file')
    args = parser.parse_args()
    least = max(WARM_UP, 2 * args.workers) + 2
    if args.iterations < least:
        parser.error(f'--iterations {args.iterations} is too few: with '
                     f'{args.workers} workers at least {least} are needed')

    print(f'{name_of(args.device)}, torch {torch.__version__}, {args.config}, '
          f'batch {args.batch_size}, {args.workers} workers, '
          f'{os.cpu_count()} cores')
    with tempfile.TemporaryDirectory() as folder:
        result = measure(args, Path(folder))
    show([
        dict(what='tools/train.py',
             **{'images/s': f'{result["training"]:.1f}'}),
        dict(what='data loader alone',
             **{'images/s': f'{result["loader"]:.1f}'}),
        dict(what='step alone', **{'images/s': f'{result["step"]:.1f}'})
    ])
    print(f'{result["waiting"]:.1%} of the time of training is spent waiting '
          f'for images; the {result["limit"]} is the limit.\n'
          f'One core loads {result["loader_per_core"]:.1f} images/s, so '
          f'{result["cores_needed"]:.2g} cores keep up with this step. By '
          'arithmetic, beside a step that needs no core:')
    show([
        dict(cores=cores, **{'images/s': f'{speed:.1f}'},
             limit='step' if speed >= result['step'] else 'loader')
        for cores, speed in result['with_cores'].items()
    ])
    write_json(
        args.json,
        dict(
            device=name_of(args.device),
            torch=torch.__version__,
            config=args.config,
            batch_size=args.batch_size,
            workers=args.workers,
            iterations=args.iterations,
            **result))


if __name__ == '__main__':
    main()
