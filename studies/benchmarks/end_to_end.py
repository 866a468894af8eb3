"""Images per second of tools/train.py itself, and what limits it.

Three measurements with the same config:

1. tools/train.py trains on the JPEG files that data_loading.py makes, 500 x
   375 px, again and again. The seconds of each iteration are those that it
   logs.
2. The data loader alone, with the same workers: nothing is trained.
3. The step alone, on one batch that is on the device already.

The slower of the last two limits training. How many cores the loader needs to
keep up with the step is arithmetic: images a second of one worker, measured,
times the number of cores. Training that needs the CPU itself shares it with
the workers, so that on a machine without a GPU the first is slower than both.

    python studies/benchmarks/end_to_end.py --workers 2
"""
import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
from argparse import Namespace
from pathlib import Path
from typing import Dict, List

import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmpretrain.registry import MODELS

# A clone runs its own code, installed or not: see train.py.
ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from studies.benchmarks.data_loading import (make_images,  # noqa: E402
                                             seconds_an_image)
from studies.benchmarks.machine import name_of  # noqa: E402
from studies.benchmarks.measuring import (CONFIG, add_device,  # noqa: E402
                                          command_line, config_file, in_turns,
                                          show, taken_by, write_json)

from dmae_mm.host import ConfigOptions, read_config  # noqa: E402
from dmae_mm.launch import adapt_to_cpu  # noqa: E402

WARM_UP = 3  # iterations that do not count


def make_photos(folder: Path, number: int) -> None:
    """As many files, of quality 90; those of one content take no space."""
    with tempfile.TemporaryDirectory(dir=folder.parent) as made:
        make_images(made, quality=90)
        folder.mkdir()
        different = sorted(Path(made).iterdir())
        for i in range(number):
            os.link(different[i % len(different)], folder / f'{i:05}.jpg')


def options_of(args: Namespace, photos: Path) -> dict:
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
        sys.exit(f'{" ".join(command)}\nfailed:\n{done.stdout[-2000:]}'
                 f'{done.stderr[-4000:]}')
    log, = work_dir.glob('*/vis_data/scalars.json')
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    return [line for line in lines if 'data_time' in line]


def first_batches(workers: int) -> int:
    """What the workers have loaded in advance must not count."""
    return max(WARM_UP, 2 * workers)


def step_alone(cfg: Config, device: str, iterations: int) -> float:
    """Images a second of the training step on one batch."""
    model = MODELS.build(
        dict(cfg.model, data_preprocessor=cfg.data_preprocessor))
    model.init_weights()
    model.to(device).train()
    if device == 'cpu':
        cfg.launcher = 'none'
        adapt_to_cpu(cfg)
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    batch = next(iter(Runner.build_dataloader(cfg.train_dataloader, seed=0)))
    batch = model.data_preprocessor.cast_data(batch)
    step = functools.partial(model.train_step, batch, wrapper)
    taken = in_turns(
        dict(step=functools.partial(taken_by, step, device)), iterations,
        WARM_UP)['step']
    return len(batch['inputs']) / statistics.median(
        call.seconds for call in taken)


def measure(args: Namespace, folder: Path) -> Dict[str, object]:
    """All three, and what follows."""
    make_photos(folder / 'photos', args.batch_size * args.iterations)
    options = options_of(args, folder / 'photos')
    lines = train(args.config, options, folder / 'run')[WARM_UP:]
    seconds = sum(line['time'] for line in lines)
    cfg = read_config(args.config, options)
    cfg.train_dataloader.persistent_workers = False
    init_default_scope(cfg.default_scope)
    loaded = 1 / seconds_an_image(
        Runner.build_dataloader(cfg.train_dataloader, seed=0),
        skip=first_batches(args.workers))
    stepped = step_alone(cfg, args.device, args.step_iterations)
    per_core = loaded / max(1, min(args.workers, os.cpu_count()))
    return dict(
        training=args.batch_size * len(lines) / seconds,
        loader=loaded,
        step=stepped,
        waiting=sum(line['data_time'] for line in lines) / seconds,
        limit='loader' if loaded < stepped else 'step',
        loader_per_core=per_core,
        cores_needed=stepped / per_core,
        with_cores={
            str(cores): min(stepped, per_core * cores)
            for cores in args.cores
        })


def main() -> None:
    parser = command_line(__doc__, batch_size=8, workers=2)
    parser.add_argument(
        'config', nargs='?', type=config_file, default=CONFIG)
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
    add_device(parser, 'of the step alone; tools/train.py takes what there '
               'is; ')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=ConfigOptions,
        default={},
        metavar='KEY=VALUE',
        help='change the config, as in tools/train.py')
    args = parser.parse_args()
    least = first_batches(args.workers) + 2
    if args.iterations < least:
        parser.error(f'--iterations {args.iterations} is too few: with '
                     f'{args.workers} workers at least {least} are needed')

    print(f'{name_of(args.device)}, torch {torch.__version__}, {args.config}, '
          f'batch {args.batch_size}, {args.workers} workers, '
          f'{os.cpu_count()} cores')
    with tempfile.TemporaryDirectory() as folder:
        result = measure(args, Path(folder))
    show([{
        'what': what,
        'images/s': f'{result[key]:.1f}'
    } for what, key in (('tools/train.py', 'training'),
                        ('data loader alone', 'loader'),
                        ('step alone', 'step'))])
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
        device=name_of(args.device),
        torch=torch.__version__,
        config=args.config,
        batch_size=args.batch_size,
        workers=args.workers,
        iterations=args.iterations,
        **result)


if __name__ == '__main__':
    main()
