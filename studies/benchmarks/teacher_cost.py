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
import functools
import statistics
import sys
from argparse import Namespace
from pathlib import Path
from typing import Dict, List, Tuple

import torch
from mmengine.registry import init_default_scope

# A clone runs its own code, installed or not: see train.py.
sys.path.insert(0, str(Path(__file__).parents[2]))

from studies.benchmarks.machine import name_of  # noqa: E402
from studies.benchmarks.measuring import (add_device,  # noqa: E402
                                          command_line, in_turns, ratios,
                                          show, spread, taken_by, write_json)
from studies.benchmarks.variants import module_bytes  # noqa: E402

from dmae_mm.models import (MMPretrainTeacher, Teacher,  # noqa: E402
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
        return TimmTeacher(model_name=model_name, **options)
    return MMPretrainTeacher(
        dict(type='MAEViT', arch=arch, patch_size=16), **options)


def measure(args: Namespace) -> List[dict]:
    """One row for each library, depth and type of number."""
    cuda = args.device.startswith('cuda')
    dtypes = ['float32', 'bfloat16'] + ['float16'] * cuda
    keys = [(library, depth, dtype) for library in ('mmpretrain', 'timm')
            for dtype in dtypes for depth in DEPTHS]
    images = torch.randn(args.batch_size, 3, 224, 224, device=args.device)
    ids_keep = torch.rand(
        args.batch_size, 196, device=args.device).argsort(1)[:, :49]
    teachers: Dict[Tuple[str, ...], Teacher] = {
        key: build(key[0], args.model, *key[1:]).to(args.device)
        for key in keys
    }
    taken = in_turns(
        {
            key: functools.partial(
                taken_by, functools.partial(teacher, images, ids_keep),
                args.device)
            for key, teacher in teachers.items()
        }, args.rounds)
    seconds = {
        key: [call.seconds for call in calls]
        for key, calls in taken.items()
    }
    rows = []
    for key, teacher in teachers.items():
        whole = (key[0], 'whole', 'float32')
        times = ratios(seconds[key], seconds[whole])
        rows.append(
            dict(
                library=key[0],
                blocks=key[1],
                dtype=key[2],
                weight_bytes=module_bytes(teacher),
                weight_ratio=(module_bytes(teacher) /
                              module_bytes(teachers[whole])),
                forward_bytes=taken[key][-1].peak_bytes,
                seconds=statistics.median(seconds[key]),
                **{f'time_{name}': value for name, value in times.items()}))
    return rows


def as_table(row: dict) -> Dict[str, str]:
    cells = {
        'library': row['library'],
        'blocks': row['blocks'],
        'type': row['dtype'],
        'weights, MiB': f'{row["weight_bytes"] / 2**20:.1f}',
        'ratio': f'{row["weight_ratio"]:.3f}',
        's/forward': f'{row["seconds"]:.4f}',
        'time, ratio': f'{row["time_ratio"]:.2f}',
        'min - max': spread(row, 'time_ratio'),
    }
    if row['forward_bytes'] is not None:
        cells['forward, MiB'] = f'{row["forward_bytes"] / 2**20:.1f}'
    return cells


def main() -> None:
    parser = command_line(__doc__, batch_size=8, rounds=7)
    parser.add_argument('--model', choices=ARCHITECTURES, default='B')
    add_device(parser)
    args = parser.parse_args()

    init_default_scope('mmpretrain')
    device = name_of(args.device)
    print(f'ViT-{args.model}, {device}, torch {torch.__version__}, batch '
          f'{args.batch_size}, 49 of 196 patches, median of {args.rounds} '
          'turns')
    rows = measure(args)
    show([as_table(row) for row in rows])
    write_json(
        args.json,
        model=args.model,
        device=device,
        torch=torch.__version__,
        batch_size=args.batch_size,
        rows=rows)


if __name__ == '__main__':
    main()
