"""Peak memory of a training step of each variant, and what needs it.

The variants are those of _variants.py. What stands all the time is counted:
weights and buffers of the student, the teacher, the two moments of AdamW. On
top comes what a step allocates at its peak, which is measured: on a GPU by
PyTorch's allocator (max_memory_allocated), on a CPU from the allocations and
releases of tensors that torch.profiler records, temporary ones within an
operator included; the work space of libraries such as oneDNN is in neither.

Beside the peak stands the floor by arithmetic: what stands all the time, and
the larger of the gradients (there at the end of the backward pass) and of the
activations that autograd saves for it (there at its start). With gradient
accumulation it is their sum. A compiled step chooses itself what it saves, so
no activations are counted for it.

    python studies/benchmarks/memory.py                # a few minutes on a CPU
    python studies/benchmarks/memory.py --variants all --amp --batch-size 256
"""
import argparse
import sys
from pathlib import Path
from typing import Callable, Dict, Optional, Sequence

import torch
from torch.profiler import ProfilerActivity, profile

# A clone runs its own code, installed or not: see train.py.
sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parent)]

from _machine import name_of, show, write_json  # noqa: E402
from _variants import (VARIANTS, build_all, make_steps,  # noqa: E402
                       num_bytes, standing_bytes)

QUICK = [name for name, variant in VARIANTS.items() if not variant.compile]
RATIO_TO = 'as the reference'


def peak_on_cpu(step: Callable[[], None]) -> int:
    """Most bytes of tensors that a step has at a time, on top."""
    with profile(
            activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        step()
    changes = sorted(
        (event.start_ns(), event.nbytes())
        for event in record.profiler.kineto_results.events()
        if event.name() == '[memory]')
    peak = now = 0
    for _, change in changes:
        now += change
        peak = max(peak, now)
    return peak


def peak_on_cuda(step: Callable[[], None]) -> int:
    """The same, by the allocator."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def saved_bytes(step: Callable[[], None], standing: Sequence) -> int:
    """Bytes that autograd keeps for the backward pass.

    Args:
        step (callable): The step.
        standing (Sequence[torch.Tensor]): What is there all the time, such
            as weights and images, and does not count.

    Returns:
        int: Bytes of the different storages.
    """
    known = {tensor.untyped_storage().data_ptr() for tensor in standing}
    saved: Dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        step()
    return sum(saved.values())


def measure(config: str, names: Sequence[str], batch_size: int, device: str,
            amp: bool) -> Dict[str, dict]:
    """All numbers of a config, by variant."""
    models = build_all(config, names, device)
    size = next(iter(models.values())).backbone.img_size
    images = torch.randn(batch_size, 3, *size, device=device)
    steps = make_steps(models, images, amp)
    result = {}
    for name, model in models.items():
        standing = standing_bytes(model)
        step = steps[name]
        step()  # makes the optimizer's state, and compiles
        on_top = peak_on_cuda(step) if images.is_cuda else peak_on_cpu(step)
        saved: Optional[int] = None
        if not VARIANTS[name].compile:
            saved = saved_bytes(
                step, [images, *model.parameters(), *model.buffers()])
        gradients = num_bytes(p for p in model.parameters() if p.requires_grad)
        result[name] = dict(
            **standing,
            gradients=gradients,
            activations=saved,
            peak=sum(standing.values()) + on_top,
            floor=None if saved is None else sum(standing.values()) +
            max(gradients, saved))
    for row in result.values():
        row['ratio'] = row['peak'] / result[RATIO_TO]['peak']
    return result


def show_result(result: Dict[str, dict]) -> None:
    rows = []
    for name, row in result.items():
        cells = {'variant, MiB': name}
        for key in ('weights', 'teacher', 'optimizer', 'gradients',
                    'activations', 'floor', 'peak'):
            cells[key] = None if row[key] is None else (
                f'{row[key] / 2**20:,.0f}')
        cells['peak / reference'] = f'{row["ratio"]:.2f}'
        rows.append(cells)
    show(rows)


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
    parser.add_argument(
        '--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--amp', action='store_true', help='bfloat16 autocast')
    parser.add_argument(
        '--variants',
        nargs='+',
        choices=['all', *VARIANTS],
        help='by default all on a GPU, all but the compiled ones on a CPU; '
        'that of the reference is always among them')
    parser.add_argument('--json', help='also write the results to this file')
    args = parser.parse_args()
    names = args.variants or (
        ['all'] if args.device.startswith('cuda') else QUICK)
    if 'all' in names:
        names = list(VARIANTS)
    names = [name for name in VARIANTS if name in (RATIO_TO, *names)]

    print(f'{name_of(args.device)}, torch {torch.__version__}, batch '
          f'{args.batch_size}, '
          f'{"bfloat16 autocast" if args.amp else "float32"}')
    results = {}
    for config in args.configs:
        print(config)
        results[config] = measure(config, names, args.batch_size, args.device,
                                  args.amp)
        show_result(results[config])
    write_json(
        args.json,
        dict(
            device=name_of(args.device),
            torch=torch.__version__,
            batch_size=args.batch_size,
            amp=args.amp,
            results=results))


if __name__ == '__main__':
    main()
