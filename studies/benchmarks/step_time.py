"""Time of a training step: plain MAE, DMAE in several ways, the reference's.

The variants (see _variants.py) are timed in turn within one process, and each
turn yields the ratios to plain MAE, so that a machine whose speed drifts does
not decide the result. Where others use the machine as well, the fastest steps
say more, and on a CPU the time that the process itself computes ("CPU"), best
with one thread, which waits for no other. Beside them stand

- "counted": the ratio to plain MAE that counting multiply-adds predicts,
- "floor": the least time that arithmetic allows: multiply-adds x 2 over the
  measured throughput of matrix products in the types of numbers used, plus the
  seven passes over weights, gradients and moments that AdamW needs, over the
  measured bandwidth of memory,
- "reached": floor / fastest step.

    python studies/benchmarks/step_time.py             # minutes on a CPU
    python studies/benchmarks/step_time.py --variants all --amp \
        --batch-size 256
"""
import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Dict, Sequence

import torch

# A clone runs its own code, installed or not: see train.py.
sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parent)]

from _machine import (capabilities, describe, show,  # noqa: E402
                      synchronizer, write_json)
from _profile import profile_step  # noqa: E402
from _variants import (VARIANTS, Variant, build_all,  # noqa: E402
                       count_flops, make_steps, num_bytes, standing_bytes)

# Compiling takes minutes on a CPU.
QUICK = [name for name, variant in VARIANTS.items() if not variant.compile]
RATIO_TO = 'plain MAE'


def floor(variant: Variant, student: int, teacher: int, weights: int,
          amp: bool, machine: dict) -> float:
    """Seconds that a step cannot undercut.

    Args:
        variant (Variant): How it computes.
        student (int): Multiply-adds x 2 of a batch outside the teacher.
        teacher (int): Those of the teacher.
        weights (int): Bytes of the weights that are trained.
        amp (bool): Whether the student computes in bfloat16.
        machine (dict): What the machine can do.

    Returns:
        float: The seconds.
    """
    speed = machine['matrix_throughput']
    own = 'bfloat16' if amp else 'float32'
    its = own if variant.teacher_dtype == 'float32' else variant.teacher_dtype
    return (student / speed[own] + teacher / speed[its] +
            # Weights, gradients and two moments are read; all but the
            # gradients are written.
            7 * weights / machine['memory_bandwidth'])


def time_in_turns(steps: dict, rounds: int,
                  device: str) -> Dict[str, Dict[str, list]]:
    """Seconds of each step of each variant, by the clock and those that this
    process computed; on a GPU, also the most bytes that it allocated."""
    synchronize = synchronizer(device)
    cuda = device.startswith('cuda')
    seconds: Dict[str, list] = {name: [] for name in steps}
    cpu: Dict[str, list] = {name: [] for name in steps}
    peaks: Dict[str, list] = {name: [] for name in steps}
    for turn in range(-2, rounds):  # the first turns warm up
        for name, step in steps.items():
            synchronize()
            if cuda:
                torch.cuda.reset_peak_memory_stats()
                before = torch.cuda.memory_allocated()
            start, computed = time.perf_counter(), time.process_time()
            step()
            synchronize()
            if turn < 0:
                continue
            seconds[name].append(time.perf_counter() - start)
            cpu[name].append(time.process_time() - computed)
            if cuda:
                peaks[name].append(torch.cuda.max_memory_allocated() - before)
        if sys.stdout.isatty():
            print(f'  turn {turn + 1}/{rounds}', end='\r', flush=True)
    return dict(seconds=seconds, cpu=cpu, peaks=peaks)


def measure(config: str, names: Sequence[str], batch_size: int, rounds: int,
            device: str, amp: bool, profile: bool,
            machine: dict) -> Dict[str, dict]:
    """All numbers of a config, by variant."""
    flops = {name: count_flops(config, VARIANTS[name]) for name in names}
    models = build_all(config, names, device)
    size = next(iter(models.values())).backbone.img_size
    images = torch.randn(batch_size, 3, *size, device=device)
    steps = make_steps(models, images, amp)
    measured = time_in_turns(steps, rounds, device)
    seconds, peaks = measured['seconds'], measured['peaks']
    result = {}
    for name, model in models.items():
        ratios, cpu_ratios = ([
            ours / its for ours, its in zip(times[name], times[RATIO_TO])
        ] for times in (seconds, measured['cpu']))
        student, teacher = (batch_size * number for number in flops[name])
        fastest = min(seconds[name])
        least = floor(
            VARIANTS[name], student, teacher,
            num_bytes(p for p in model.parameters() if p.requires_grad), amp,
            machine)
        result[name] = dict(
            seconds=statistics.median(seconds[name]),
            fastest=fastest,
            images_per_second=batch_size / statistics.median(seconds[name]),
            ratio=statistics.median(ratios),
            ratio_min=min(ratios),
            ratio_max=max(ratios),
            ratio_of_fastest=fastest / min(seconds[RATIO_TO]),
            ratio_of_cpu=statistics.median(cpu_ratios),
            cpu_seconds=min(measured['cpu'][name]),
            gflop_per_image=sum(flops[name]) / 1e9,
            predicted_ratio=sum(flops[name]) / sum(flops[RATIO_TO]),
            floor=least,
            reached=least / fastest,
            peak_bytes=None if not peaks[name] else max(peaks[name]) +
            sum(standing_bytes(model).values()))
        if profile:
            kinds, operators = profile_step(
                steps[name], device.startswith('cuda'), 12)
            result[name].update(kinds=kinds, operators=operators)
    return result


def show_result(result: Dict[str, dict]) -> None:
    rows = []
    for name, row in result.items():
        spread = f'({row["ratio_min"]:.2f} - {row["ratio_max"]:.2f})'
        cells = {
            'variant': name,
            's/step': f'{row["seconds"]:.3f}',
            'fastest': f'{row["fastest"]:.3f}',
            'images/s': f'{row["images_per_second"]:.1f}',
            'GFLOP/image': f'{row["gflop_per_image"]:.1f}',
            'ratio': f'{row["ratio"]:.3f}',
            '(min - max)': spread,
            'of fastest': f'{row["ratio_of_fastest"]:.3f}',
            'of CPU': f'{row["ratio_of_cpu"]:.3f}',
            'counted': f'{row["predicted_ratio"]:.3f}',
            'floor': f'{row["floor"]:.3f}',
            'reached': f'{row["reached"]:.0%}',
        }
        if row['peak_bytes'] is not None:
            del cells['of CPU']
            cells['peak, GiB'] = f'{row["peak_bytes"] / 2**30:.2f}'
        rows.append(cells)
    show(rows)
    if 'as the reference' in result:
        its = result['as the reference']
        for name, row in result.items():
            if name.startswith('DMAE'):
                print(f'as the reference / {name}: '
                      f'{its["ratio"] / row["ratio"]:.2f} in turns, '
                      f'{its["fastest"] / row["fastest"]:.2f} of the fastest, '
                      f'{its["ratio_of_cpu"] / row["ratio_of_cpu"]:.2f} of '
                      'CPU time, '
                      f'{its["predicted_ratio"] / row["predicted_ratio"]:.2f} '
                      'counted')
    for name, row in result.items():
        if 'kinds' in row:
            print(f'\n{name}: time by kind of work, and by operator')
            show(row['kinds'])
            show(row['operators'])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument(
        'configs',
        nargs='*',
        default=[
            'configs/dmae/vit-s_dmae_in1k.py',
            'configs/dmae/vit-b_dmae_in1k.py'
        ],
        help='DMAE configs with a MAEViT as student and as teacher; by '
        'default S <- B and B <- L')
    parser.add_argument('--batch-size', type=int, default=8)
    parser.add_argument('--rounds', type=int, default=7)
    parser.add_argument(
        '--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument(
        '--threads', type=int, help='of PyTorch on the CPU')
    parser.add_argument('--amp', action='store_true', help='bfloat16 autocast')
    parser.add_argument(
        '--variants',
        nargs='+',
        choices=['all', *VARIANTS],
        help='by default all on a GPU, all but the compiled ones on a CPU; '
        'plain MAE is always among them')
    parser.add_argument(
        '--profile',
        action='store_true',
        help='also show where the time of a step goes')
    parser.add_argument('--json', help='also write the results to this file')
    args = parser.parse_args()
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    names = args.variants or (
        ['all'] if args.device.startswith('cuda') else QUICK)
    if 'all' in names:
        names = list(VARIANTS)
    names = [name for name in VARIANTS if name in (RATIO_TO, *names)]

    machine = capabilities(args.device, (torch.float32, torch.bfloat16))
    print(describe(machine))
    print(f'batch {args.batch_size}, '
          f'{"bfloat16 autocast" if args.amp else "float32"}, median of '
          f'{args.rounds} turns')
    results = {}
    for config in args.configs:
        print(config)
        results[config] = measure(config, names, args.batch_size, args.rounds,
                                  args.device, args.amp, args.profile, machine)
        show_result(results[config])
    write_json(
        args.json,
        dict(
            machine=machine,
            batch_size=args.batch_size,
            amp=args.amp,
            rounds=args.rounds,
            results=results))


if __name__ == '__main__':
    main()
