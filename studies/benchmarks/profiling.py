"""Where a step's time goes, by kind of work and by operator."""
import re
from typing import Callable, Dict, List, Tuple

from torch.profiler import ProfilerActivity, profile

# The first that fits an operator's or a kernel's name. Names of kernels are
# those of cuBLAS, cutlass, Triton and PyTorch.
KINDS: Dict[str, str] = {
    'attention': r'attention|flash|fmha',
    'optimizer': r'adam|_foreach',
    'matrix products': r'mm$|matmul|linear|conv|gemm|cutlass|nvjet|mkldnn',
    'norms': r'layer_norm|LayerNorm|layernorm|vector_norm|linalg',
    'copies': r'copy|cat|gather|scatter|index|clone|contiguous|fill|zero'
              r'|Memcpy|Memset',
    'sorting, random numbers': r'sort|rand|Sort|distribution',
    'compiled, fused element by element': r'triton|CompiledFunction|graph',
    'element by element': '',
}


def profile_step(step: Callable[[], None], cuda: bool,
                 top: int) -> Tuple[List[dict], List[dict]]:
    """Run a step under torch.profiler.

    Args:
        step (callable): What runs a step; it should have run before.
        cuda (bool): Whether kernels of a GPU do the work: their time counts,
            not that of the CPU.
        top (int): How many operators to name.

    Returns:
        tuple[list[dict]]: Rows of two tables: time by kind of work, and the
        operators that take most.
    """
    activities = [ProfilerActivity.CPU]
    if cuda:
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities) as record:
        step()
    times = [(event.key, event.count,
              event.self_device_time_total if cuda else
              event.self_cpu_time_total) for event in record.key_averages()]
    times = [row for row in times if row[2] > 0]
    total = sum(time for *_, time in times)
    kinds = dict.fromkeys(KINDS, 0.)
    for name, _, time in times:
        kinds[kind_of(name)] += time
    by_kind = [
        dict(kind=kind, ms=round(time / 1e3, 1), share=f'{time / total:.1%}')
        for kind, time in kinds.items() if time > 0
    ]
    times.sort(key=lambda row: -row[2])
    by_operator = [
        dict(operator=name[:60], calls=count, ms=round(time / 1e3, 1),
             share=f'{time / total:.1%}', kind=kind_of(name))
        for name, count, time in times[:top]
    ]  # yapf: disable
    return by_kind, by_operator


def kind_of(name: str) -> str:
    """Kind of work of an operator or a kernel, by its name."""
    return next(kind for kind, part in KINDS.items() if re.search(part, name))
