"""Throughput of several processes on one machine against that of one.

The same processes take turns: one trains alone while the others wait, all
train each for itself, all train together in DDP. The second turn shows what
processes cost each other by sharing the machine, the third what exchanging
gradients adds. Every process has the same number of threads in each turn.

    python studies/benchmarks/scaling.py --processes 2 --threads 1
"""
import functools
import json
import os
import statistics
import sys
import tempfile
from argparse import Namespace
from pathlib import Path
from typing import Dict

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

# A clone runs its own code, installed or not: see train.py.
sys.path.insert(0, str(Path(__file__).parents[2]))

from studies.benchmarks.measuring import (CONFIG, add_device,  # noqa: E402
                                          command_line, config_file, in_turns,
                                          ratios, show, spread, taken_by, write_json)
from studies.benchmarks.variants import (Variant, build,  # noqa: E402
                                         build_optimizer, random_images,
                                         train_step)

TURNS = ('one alone', 'all, each for itself', 'all, in DDP')


def train(rank: int, args: Namespace, folder: str) -> None:
    """One of the processes; the first writes the seconds of each turn."""
    torch.set_num_threads(args.threads)
    cuda = args.device == 'cuda'
    if cuda:
        torch.cuda.set_device(rank)
    dist.init_process_group(
        'nccl' if cuda else 'gloo',
        init_method=f'file://{folder}/processes',
        rank=rank,
        world_size=args.processes)
    # DDP communicates as soon as one of its processes trains.
    alone, together = (
        build(args.config, Variant()).to(args.device) for _ in range(2))
    ddp = DistributedDataParallel(
        together, device_ids=[rank] if cuda else None, broadcast_buffers=False)
    images = random_images(alone, args.batch_size, args.device)
    steps = {
        turn: functools.partial(train_step,
                                functools.partial(model, mode='loss'),
                                build_optimizer(model, True), images, args.amp)
        for turn, model in zip(TURNS, (alone, alone, ddp))
    }

    def seconds_of(turn: str) -> float:
        """Of the slowest process."""
        dist.barrier()
        waits = turn == TURNS[0] and rank > 0
        taken = taken_by((lambda: None) if waits else steps[turn], args.device)
        seconds = torch.tensor(taken.seconds, device=args.device)
        dist.all_reduce(seconds, dist.ReduceOp.MAX)
        return seconds.item()

    seconds = in_turns(
        {turn: functools.partial(seconds_of, turn) for turn in TURNS},
        args.rounds,
        bar=rank == 0)
    if rank == 0:
        Path(folder, 'seconds.json').write_text(json.dumps(seconds))
    dist.destroy_process_group()


def measure(args: Namespace) -> Dict[str, dict]:
    """Run the processes.

    Returns:
        dict[str, dict]: For each kind of turn the median seconds of a step,
        images per second of all processes that trained, and their ratio to
        one process alone, with minimum and maximum over the rounds.
    """
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(train, (args, folder), nprocs=args.processes)
        seconds = json.loads(Path(folder, 'seconds.json').read_text())
    result = {}
    for turn in TURNS:
        processes = 1 if turn == TURNS[0] else args.processes
        median = statistics.median(seconds[turn])
        result[turn] = dict(
            seconds=median,
            images_per_second=processes * args.batch_size / median,
            **ratios((processes * alone for alone in seconds[TURNS[0]]),
                     seconds[turn]))
    return result


def main() -> None:
    parser = command_line(
        __doc__, processes=2, threads=1, batch_size=16, rounds=7)
    parser.add_argument(
        'config', nargs='?', type=config_file, default=CONFIG)
    add_device(parser)
    parser.add_argument('--amp', action='store_true', help='bfloat16 autocast')
    args = parser.parse_args()
    cuda = args.device == 'cuda'
    devices = (
        torch.cuda.device_count() if cuda else len(os.sched_getaffinity(0)))
    wanted = args.processes * (1 if cuda else args.threads)
    if args.processes < 2 or wanted > devices:
        parser.error(
            f'--processes {args.processes} --threads {args.threads} on '
            f'{args.device}: needs two processes or more, and this machine '
            f'has {devices} {"GPUs" if cuda else "cores"}')

    print(f'{args.config}: {args.processes} processes of {args.threads} '
          f'threads, {args.device}, torch {torch.__version__}, '
          f'{args.batch_size} images a process, median of {args.rounds} '
          'rounds')
    result = measure(args)
    show([{
        '': turn,
        's/step': f'{row["seconds"]:.3f}',
        'images/s': f'{row["images_per_second"]:.1f}',
        'ratio': f'{row["ratio"]:.2f}',
        'min - max': spread(row)
    } for turn, row in result.items()])
    write_json(
        args.json, **vars(args), torch=torch.__version__, results=result)


if __name__ == '__main__':
    main()
