"""Single steps and losses of published methods, to be met to 1e-5.

Each file of tests/data holds what a method's own code computed once at toy
size in float32 on a CPU: inputs, intermediates, losses and gradients.
"""
import json
from pathlib import Path
from typing import Dict, Tuple

import numpy as np
import torch

DATA = Path(__file__).parents[1] / 'data'


def read_golden(name: str) -> Tuple[Dict[str, torch.Tensor], dict]:
    """Read a file of reference numbers.

    Args:
        name (str): For example 'unic_a'.

    Returns:
        tuple: Its tensors by name, and its hyper-parameters.
    """
    file = np.load(DATA / f'golden_{name}.npz')
    meta = json.loads(str(file['meta']))
    return {
        key: torch.from_numpy(np.asarray(file[key]))
        for key in file.files if key != 'meta'
    }, meta


def assert_golden(ours: torch.Tensor, golden: torch.Tensor) -> None:
    """Equal to 1e-5, relative to the largest element where one is small."""
    torch.testing.assert_close(
        ours.detach().to(golden.dtype), golden, rtol=1e-5,
        atol=1e-5 * golden.abs().max().item())
