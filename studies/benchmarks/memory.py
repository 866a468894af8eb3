"""Peak memory of a training step of each variant, and what needs it.

The variants are those of variants.py. What stands all the time is counted:
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
import sys
from argparse import Namespace
from pathlib import Path
from typing import Callable, Dict, Iterable, Sequence

import torch
from torch.profiler import ProfilerActivity, profile

# A clone runs its own code, installed or not: see train.py.
sys.path.insert(0, str(Path(__file__).parents[2]))

from studies.benchmarks.machine import name_of  # noqa: E402
from studies.benchmarks.measuring import (show, taken_by,  # noqa: E402
                                          write_json)
from studies.benchmarks.variants import (VARIANTS, build_all,  # noqa: E402
                                         chosen, make_steps, num_bytes,
                                         options, random_images,
                                         standing_bytes, trained)

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


def saved_bytes(step: Callable[[], None],
                standing: Iterable[torch.Tensor]) -> int:
    """Bytes that autograd keeps for the backward pass.

    Args:
        step (callable): The step.
        standing (Iterable[torch.Tensor]): What is there all the time, such
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


def measure(config: str, names: Sequence[str],
            args: Namespace) -> Dict[str, dict]:
    """All numbers of a config, by variant."""
    models = build_all(config, names, args.device)
    images = random_images(models[RATIO_TO], args.batch_size, args.device)
    result = {}
    for name, step in make_steps(models, images, args.amp).items():
        model = models[name]
        parts = standing_bytes(model)
        standing = sum(parts.values())
        gradients = num_bytes(trained(model))
        step()  # makes the optimizer's state, and compiles
        on_top = taken_by(
            step,
            args.device).peak_bytes if images.is_cuda else peak_on_cpu(step)
        saved = None if VARIANTS[name].compile else saved_bytes(
            step, [images, *model.parameters(), *model.buffers()])
        result[name] = dict(
            **parts,
            gradients=gradients,
            activations=saved,
            peak=standing + on_top,
            floor=None if saved is None else standing + max(gradients, saved))
    for row in result.values():
        row['ratio'] = row['peak'] / result[RATIO_TO]['peak']
    return result


def show_result(result: Dict[str, dict]) -> None:
    columns = ('weights', 'teacher', 'optimizer', 'gradients', 'activations',
               'floor', 'peak')
    show([{
        'variant, MiB': name,
        **{
            key: None if row[key] is None else f'{row[key] / 2**20:,.0f}'
            for key in columns
        },
        'peak / reference': f'{row["ratio"]:.2f}'
    } for name, row in result.items()])


def main() -> None:
    args = options(__doc__, RATIO_TO).parse_args()
    print(f'{name_of(args.device)}, torch {torch.__version__}, batch '
          f'{args.batch_size}, '
          f'{"bfloat16 autocast" if args.amp else "float32"}')
    results = {}
    for config in args.configs:
        print(config)
        results[config] = measure(config, chosen(args, RATIO_TO), args)
        show_result(results[config])
    write_json(
        args.json,
        device=name_of(args.device),
        torch=torch.__version__,
        batch_size=args.batch_size,
        amp=args.amp,
        results=results)


if __name__ == '__main__':
    main()
