"""Throughput of several processes on one machine against that of one.

The same processes take turns: one trains alone while the others wait, all
train each for itself, all train together in DDP. The second turn shows what
processes cost each other by sharing the machine, the third what exchanging
gradients adds. Every process has the same number of threads in each turn.

    python studies/benchmarks/scaling.py --processes 2 --threads 1
"""
import argparse
import json
import os
import socket
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Callable, Dict, List

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS
from torch.nn.parallel import DistributedDataParallel

# A clone runs its own code, installed or not: see train.py.
sys.path.insert(0, str(Path(__file__).parents[2]))

import dmae_mm  # noqa: E402, F401

TURNS = ('one alone', 'all, each for itself', 'all, in DDP')


def build(config: str) -> torch.nn.Module:
    """A model with random weights, also in the teacher."""
    cfg = Config.fromfile(config)
    init_default_scope(cfg.default_scope)
    if cfg.model.get('teacher') is not None:
        cfg.model.teacher.checkpoint = 'not read'
    model = MODELS.build(cfg.model)
    if model.teacher is not None:
        model.teacher.is_loaded = True
    return model


def train(rank: int, args: argparse.Namespace, port: int, path: str) -> None:
    """One of the processes; the first writes the seconds of each turn."""
    torch.set_num_threads(args.threads)
    cuda = args.device == 'cuda'
    if cuda:
        torch.cuda.set_device(rank)
    dist.init_process_group(
        'nccl' if cuda else 'gloo',
        init_method=f'tcp://127.0.0.1:{port}',
        rank=rank,
        world_size=args.processes)
    # DDP communicates as soon as one of its processes trains.
    alone, together = (
        build(args.config).to(args.device).train() for _ in range(2))
    ddp = DistributedDataParallel(
        together, device_ids=[rank] if cuda else None, broadcast_buffers=False)
    size = alone.backbone.img_size
    images = torch.randn(args.batch_size, 3, *size, device=args.device)

    def make_step(model: torch.nn.Module) -> Callable[[], None]:
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

        def step() -> None:
            with torch.autocast(
                    args.device, torch.bfloat16, enabled=args.amp):
                losses = model(images, None, mode='loss')
            sum(losses.values()).backward()
            optimizer.step()
            optimizer.zero_grad()

        return step

    steps = dict(zip(TURNS, map(make_step, (alone, alone, ddp))))
    seconds: Dict[str, List[float]] = {turn: [] for turn in TURNS}
    for number in range(-1, args.rounds):  # the first one warms up
        for turn in TURNS:
            dist.barrier()
            start = time.perf_counter()
            if turn != TURNS[0] or rank == 0:
                steps[turn]()
            if cuda:
                torch.cuda.synchronize()
            elapsed = torch.tensor(time.perf_counter() - start)
            slowest = [torch.zeros(()) for _ in range(args.processes)]
            if cuda:
                elapsed, slowest = elapsed.cuda(), [t.cuda() for t in slowest]
            dist.all_gather(slowest, elapsed)
            if number >= 0:
                seconds[turn].append(max(slowest).item())
        if rank == 0 and sys.stdout.isatty():
            print(f'  turn {number + 1}/{args.rounds}', end='\r', flush=True)
    if rank == 0:
        Path(path).write_text(json.dumps(seconds))
    dist.destroy_process_group()


def measure(args: argparse.Namespace) -> Dict[str, dict]:
    """Run the processes.

    Returns:
        dict[str, dict]: For each kind of turn the median seconds of a step,
        images per second of all processes that trained, and their ratio to
        one process alone, with minimum and maximum over the rounds.
    """
    with socket.socket() as free, tempfile.TemporaryDirectory() as folder:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
        free.close()
        path = os.path.join(folder, 'seconds.json')
        mp.spawn(train, (args, port, path), nprocs=args.processes)
        seconds = json.loads(Path(path).read_text())
    result = {}
    for turn in TURNS:
        processes = 1 if turn == TURNS[0] else args.processes
        ratios = [
            processes * alone / own
            for own, alone in zip(seconds[turn], seconds[TURNS[0]])
        ]
        median = statistics.median(seconds[turn])
        result[turn] = dict(
            seconds=median,
            images_per_second=processes * args.batch_size / median,
            ratio=statistics.median(ratios),
            ratio_min=min(ratios),
            ratio_max=max(ratios))
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument(
        'config', nargs='?', default='configs/dmae/vit-s_dmae_in1k.py')
    parser.add_argument('--processes', type=int, default=2)
    parser.add_argument(
        '--threads', type=int, default=1, help='threads of each process')
    parser.add_argument(
        '--batch-size', type=int, default=16, help='images of each process')
    parser.add_argument('--rounds', type=int, default=7)
    parser.add_argument(
        '--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--amp', action='store_true', help='bfloat16 autocast')
    parser.add_argument('--json', help='also write the results to this file')
    args = parser.parse_args()
    devices = (
        torch.cuda.device_count()
        if args.device == 'cuda' else len(os.sched_getaffinity(0)))
    wanted = args.processes * (1 if args.device == 'cuda' else args.threads)
    if args.processes < 2 or wanted > devices:
        parser.error(
            f'--processes {args.processes} --threads {args.threads} on '
            f'{args.device}: needs two processes or more, and this machine '
            f'has {devices} {"GPUs" if args.device == "cuda" else "cores"}')

    print(f'{args.config}: {args.processes} processes of {args.threads} '
          f'threads, {args.device}, torch {torch.__version__}, '
          f'{args.batch_size} images a process, median of {args.rounds} '
          'rounds')
    result = measure(args)
    print(f'{"":22}{"s/step":>8}{"images/s":>10}{"ratio":>7}'
          f'{"(min - max)":>15}')
    for turn, row in result.items():
        spread = f'({row["ratio_min"]:.2f} - {row["ratio_max"]:.2f})'
        print(f'{turn:22}{row["seconds"]:>8.3f}'
              f'{row["images_per_second"]:>10.1f}{row["ratio"]:>7.2f}'
              f'{spread:>15}')
    if args.json:
        Path(args.json).write_text(
            json.dumps(dict(vars(args), torch=torch.__version__,
                            results=result), indent=2))


if __name__ == '__main__':
    main()
