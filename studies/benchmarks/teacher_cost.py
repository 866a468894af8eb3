"""Memory and time of a teacher: truncated, and with fewer bits.

The same ViT is built as MMPretrainTeacher and as TimmTeacher, and for each of
them "whole" and "3/4", and both of these in each type of number. "3/4" is the
recipes' alignment: the blocks after three quarters of the depth do not exist.
"Whole" is the same teacher with its last block aligned, so the two differ by
blocks alone; neither has a final norm, a head or a decoder.

All run in turn within one process, and each turn yields the ratios to the
whole float32 teacher of the same library, so that a machine whose speed drifts
does not decide the result. A forward pass sees a quarter of the patches, as in
the recipes. The weights are random: neither time nor memory depends on them.

The memory of the weights is counted, parameters and buffers, not measured. On
a GPU the most memory that a forward pass takes beside them is measured too.

Fewer bits always save memory, but time only where the processor calculates
faster with them: on a CPU bfloat16 can be slower than float32, also on some
that have instructions for it.
"""
import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Dict, List, Tuple

import torch
from mmengine.registry import init_default_scope

# A clone runs its own code, installed or not: see train.py.
sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parent)]

from _machine import name_of, write_json  # noqa: E402
from _variants import num_bytes as bytes_of  # noqa: E402

from dmae_mm.models import (Teacher, MMPretrainTeacher,  # noqa: E402
                            TimmTeacher)

# Architecture in mmpretrain, model in timm. All have 14 x 14 patches.
ARCHITECTURES = dict(
    T=('deit-t', 'vit_tiny_patch16_224'),
    S=('deit-s', 'vit_small_patch16_224'),
    B=('b', 'vit_base_patch16_224'),
    L=('l', 'vit_large_patch16_224'))
DEPTHS = {'whole': -1, '3/4': 0.75}


def build(library: str, model: str, depth: str, dtype: str) -> Teacher:
    """A teacher with random weights."""
    arch, model_name = ARCHITECTURES[model]
    options = dict(
        aligned_blocks=[DEPTHS[depth]], dtype=dtype, allow_random=True)
    if library == 'timm':
        return TimmTeacher(model_name, **options)
    return MMPretrainTeacher(
        dict(type='MAEViT', arch=arch, patch_size=16), **options)


def num_bytes(teacher: Teacher) -> int:
    """Memory of parameters and buffers."""
    return bytes_of([*teacher.parameters(), *teacher.buffers()])


def forward(teacher: Teacher, images: torch.Tensor,
            ids_keep: torch.Tensor) -> Tuple[float, int]:
    """Seconds of a forward pass and, on a GPU, bytes beside the weights."""
    if not images.is_cuda:
        start = time.perf_counter()
        teacher(images, ids_keep)
        return time.perf_counter() - start, 0
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    start = time.perf_counter()
    teacher(images, ids_keep)
    torch.cuda.synchronize()
    elapsed = time.perf_counter() - start
    return elapsed, torch.cuda.max_memory_allocated() - before


def measure(model: str, batch_size: int, rounds: int,
            device: str) -> List[dict]:
    """One row for each library, depth and type of number."""
    dtypes = ['float32', 'bfloat16']
    if device.startswith('cuda'):
        dtypes.append('float16')
    keys = [(library, depth, dtype) for library in ('mmpretrain', 'timm')
            for dtype in dtypes for depth in DEPTHS]
    teachers = {key: build(key[0], model, *key[1:]).to(device) for key in keys}
    images = torch.randn(batch_size, 3, 224, 224, device=device)
    ids_keep = torch.rand(batch_size, 196, device=device).argsort(1)[:, :49]

    seconds: Dict[tuple, list] = {key: [] for key in keys}
    peaks = {}
    for turn in range(-1, rounds):  # the first turn warms up
        for key, teacher in teachers.items():
            elapsed, peaks[key] = forward(teacher, images, ids_keep)
            if turn >= 0:
                seconds[key].append(elapsed)
        if sys.stdout.isatty():
            print(f'  turn {turn + 1}/{rounds}', end='\r', flush=True)
    rows = []
    for key in keys:
        whole = (key[0], 'whole', 'float32')
        ratios = [
            ours / its for ours, its in zip(seconds[key], seconds[whole])
        ]
        rows.append(
            dict(
                library=key[0],
                blocks=key[1],
                dtype=key[2],
                weight_bytes=num_bytes(teachers[key]),
                weight_ratio=(num_bytes(teachers[key]) /
                              num_bytes(teachers[whole])),
                forward_bytes=peaks[key] if images.is_cuda else None,
                seconds=statistics.median(seconds[key]),
                time_ratio=statistics.median(ratios),
                time_ratio_min=min(ratios),
                time_ratio_max=max(ratios)))
    return rows


def show(rows: List[dict]) -> None:
    on_gpu = rows[0]['forward_bytes'] is not None
    print(f'{"":27}{"weights":>11}{"ratio":>7}{"s/forward":>11}{"ratio":>7}'
          f'{"(min - max)":>15}{"  forward, MiB" * on_gpu}')
    for row in rows:
        spread = f'({row["time_ratio_min"]:.2f} - {row["time_ratio_max"]:.2f})'
        print(f'{row["library"]:11}{row["blocks"]:6}{row["dtype"]:10}'
              f'{row["weight_bytes"] / 2**20:>7.1f} MiB'
              f'{row["weight_ratio"]:>7.3f}'
              f'{row["seconds"]:>11.4f}{row["time_ratio"]:>7.2f}{spread:>15}',
              end='')
        print(f'{row["forward_bytes"] / 2**20:>14.1f}' if on_gpu else '')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--model', choices=ARCHITECTURES, default='B')
    parser.add_argument('--batch-size', type=int, default=8)
    parser.add_argument('--rounds', type=int, default=7)
    parser.add_argument(
        '--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--json', help='also write the results to this file')
    args = parser.parse_args()

    init_default_scope('mmpretrain')
    device = name_of(args.device)
    print(f'ViT-{args.model}, {device}, torch {torch.__version__}, batch '
          f'{args.batch_size}, 49 of 196 patches, median of {args.rounds} '
          'turns')
    rows = measure(args.model, args.batch_size, args.rounds, args.device)
    show(rows)
    write_json(
        args.json,
        dict(
            model=args.model,
            device=device,
            torch=torch.__version__,
            batch_size=args.batch_size,
            rows=rows))


if __name__ == '__main__':
    main()
