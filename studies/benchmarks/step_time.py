"""Time of a training step: plain MAE, DMAE in several ways, the reference's.

The variants (see variants.py) are timed in turn within one process, and each
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
import functools
import statistics
import sys
from argparse import Namespace
from pathlib import Path
from typing import Dict, Sequence

import torch

# A clone runs its own code, installed or not: see train.py.
sys.path.insert(0, str(Path(__file__).parents[2]))

from studies.benchmarks.machine import capabilities, describe  # noqa: E402
from studies.benchmarks.measuring import (in_turns, ratios,  # noqa: E402
                                          show, spread, taken_by, write_json)
from studies.benchmarks.profiling import profile_step  # noqa: E402
from studies.benchmarks.variants import (VARIANTS, Variant,  # noqa: E402
                                         build_all, chosen, count_flops,
                                         make_steps, num_bytes, options,
                                         random_images, standing_bytes,
                                         trained)

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


def measure(config: str, names: Sequence[str], args: Namespace,
            machine: dict) -> Dict[str, dict]:
    """All numbers of a config, by variant."""
    flops = {name: count_flops(config, VARIANTS[name]) for name in names}
    models = build_all(config, names, args.device)
    images = random_images(models[RATIO_TO], args.batch_size, args.device)
    steps = make_steps(models, images, args.amp)
    taken = in_turns(
        {
            name: functools.partial(taken_by, step, args.device)
            for name, step in steps.items()
        },
        args.rounds,
        warm_up=2)
    seconds, cpu = ({
        name: [getattr(call, clock) for call in calls]
        for name, calls in taken.items()
    } for clock in ('seconds', 'cpu_seconds'))
    result = {}
    for name, model in models.items():
        student, teacher = (args.batch_size * number for number in flops[name])
        median, fastest = statistics.median(seconds[name]), min(seconds[name])
        least = floor(VARIANTS[name], student, teacher,
                      num_bytes(trained(model)), args.amp, machine)
        result[name] = dict(
            seconds=median,
            fastest=fastest,
            images_per_second=args.batch_size / median,
            **ratios(seconds[name], seconds[RATIO_TO]),
            ratio_of_fastest=fastest / min(seconds[RATIO_TO]),
            ratio_of_cpu=ratios(cpu[name], cpu[RATIO_TO])['ratio'],
            cpu_seconds=min(cpu[name]),
            gflop_per_image=sum(flops[name]) / 1e9,
            predicted_ratio=sum(flops[name]) / sum(flops[RATIO_TO]),
            floor=least,
            reached=least / fastest,
            peak_bytes=sum(standing_bytes(model).values()) + max(
                call.peak_bytes
                for call in taken[name]) if images.is_cuda else None)
        if args.profile:
            kinds, operators = profile_step(steps[name], images.is_cuda, 12)
            result[name].update(kinds=kinds, operators=operators)
    return result


def show_result(result: Dict[str, dict]) -> None:
    rows = []
    for name, row in result.items():
        cells = {
            'variant': name,
            's/step': f'{row["seconds"]:.3f}',
            'fastest': f'{row["fastest"]:.3f}',
            'images/s': f'{row["images_per_second"]:.1f}',
            'GFLOP/image': f'{row["gflop_per_image"]:.1f}',
            'ratio': f'{row["ratio"]:.3f}',
            'min - max': spread(row),
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
    its = result.get('as the reference')
    for name, row in result.items():
        if its and name.startswith('DMAE'):
            print(f'as the reference / {name}: ' + ', '.join(
                f'{its[key] / row[key]:.2f} {what}' for key, what in (
                    ('ratio', 'in turns'), ('fastest', 'of the fastest'),
                    ('ratio_of_cpu', 'of CPU time'), ('predicted_ratio',
                                                      'counted'))))
    for name, row in result.items():
        if 'kinds' in row:
            print(f'\n{name}: time by kind of work, and by operator')
            show(row['kinds'])
            show(row['operators'])


def main() -> None:
    parser = options(__doc__, RATIO_TO, rounds=7)
    parser.add_argument(
        '--threads', type=int, help='of PyTorch on the CPU')
    parser.add_argument(
        '--profile',
        action='store_true',
        help='also show where the time of a step goes')
    args = parser.parse_args()
    if args.threads is not None:
        torch.set_num_threads(args.threads)

    machine = capabilities(args.device, (torch.float32, torch.bfloat16))
    print(f'{describe(machine)}\nbatch {args.batch_size}, '
          f'{"bfloat16 autocast" if args.amp else "float32"}, median of '
          f'{args.rounds} turns')
    results = {}
    for config in args.configs:
        print(config)
        results[config] = measure(config, chosen(args, RATIO_TO), args,
                                  machine)
        show_result(results[config])
    write_json(
        args.json,
        machine=machine,
        batch_size=args.batch_size,
        amp=args.amp,
        rounds=args.rounds,
        results=results)


if __name__ == '__main__':
    main()
