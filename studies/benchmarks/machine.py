"""The machine: its name, and what it can do."""
import platform
import time
from pathlib import Path
from typing import Callable, Optional, Sequence

import torch

from .measuring import taken_by


def name_of(device: str) -> str:
    """The device, for the heading of a table."""
    if device.startswith('cuda'):
        return torch.cuda.get_device_name(device)
    model = platform.processor() or platform.machine()
    cpuinfo = Path('/proc/cpuinfo')
    if cpuinfo.exists():
        names = [line.split(':')[1].strip()
                 for line in cpuinfo.read_text().splitlines()
                 if line.startswith('model name')]
        model = names[0] if names else model
    return f'CPU ({model}), {torch.get_num_threads()} threads'


def fastest(function: Callable, device: str, seconds: float = 1.) -> float:
    """Seconds of the fastest of many calls, after one that warms up."""
    taken_by(function, device)
    times, end = [], time.perf_counter() + seconds
    while not times or time.perf_counter() < end:
        times.append(taken_by(function, device).seconds)
    return min(times)


@torch.no_grad()
def matrix_throughput(device: str,
                      dtype: torch.dtype,
                      size: Optional[int] = None) -> float:
    """Operations a second (multiply-adds x 2) of one large matrix product.

    Args:
        device (str): Where.
        dtype (torch.dtype): Of both square matrices and of the result.
        size (int, optional): Rows and columns. Defaults to 8192 on a GPU,
            2048 on a CPU.

    Returns:
        float: 2 * size^3 over the seconds of the fastest of many products.
    """
    size = size or (8192 if device.startswith('cuda') else 2048)
    a, b = (torch.randn(size, size, device=device).to(dtype)
            for _ in range(2))
    out = torch.empty_like(a)
    return 2 * size**3 / fastest(lambda: torch.mm(a, b, out=out), device)


@torch.no_grad()
def memory_bandwidth(device: str, num_bytes: Optional[int] = None) -> float:
    """Bytes a second, read and written, of copying a large tensor.

    Args:
        device (str): Where.
        num_bytes (int, optional): Size of the tensor. Defaults to 1 GiB on a
            GPU, 256 MiB on a CPU, both far more than caches hold.

    Returns:
        float: Twice the tensor's bytes over the seconds of the fastest copy.
    """
    num_bytes = num_bytes or 2**(30 if device.startswith('cuda') else 28)
    source = torch.zeros(num_bytes // 4, device=device)
    target = torch.empty_like(source)
    return 2 * num_bytes / fastest(lambda: target.copy_(source), device)


def capabilities(device: str, dtypes: Sequence[torch.dtype]) -> dict:
    """What the machine can do, as the floors use it."""
    return dict(
        device=name_of(device),
        torch=torch.__version__,
        matrix_throughput={
            str(dtype)[6:]: matrix_throughput(device, dtype)
            for dtype in dtypes
        },
        memory_bandwidth=memory_bandwidth(device))


def describe(machine: dict) -> str:
    """:func:`capabilities` in words."""
    products = ', '.join(f'{value / 1e9:,.0f} GFLOP/s in {dtype}' for dtype,
                         value in machine['matrix_throughput'].items())
    size = 2048 if machine['device'].startswith('CPU') else 8192
    return (f'{machine["device"]}, torch {machine["torch"]}\n'
            f'measured: {products} (products of two {size} x {size} '
            f'matrices), {machine["memory_bandwidth"] / 1e9:,.1f} GB/s '
            '(a copy, read and written)')
