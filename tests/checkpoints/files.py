"""Checkpoint files that several tests write."""
import json
from pathlib import Path
from typing import Dict

import numpy as np
import torch

GOLDEN = np.load(
    Path(__file__).parents[1] / 'data' / 'golden_linear_l1.npz')
META = json.loads(str(GOLDEN['meta']))


def golden_weights(side: str) -> Dict[str, torch.Tensor]:
    """Weights under the reference implementation's own names.

    Args:
        side (str): 'student' (with a linear projector) or 'teacher'.

    Returns:
        dict[str, torch.Tensor]: Tensors of their own, to change at will.
    """
    return {
        name[len(side) + 1:]: torch.from_numpy(GOLDEN[name].copy())
        for name in GOLDEN.files if name.startswith(side + '/')
    }


def encoder_only(weights: Dict[str, torch.Tensor]) -> Dict[str, torch.Tensor]:
    """What MAE publishes for fine-tuning: no decoder, no projectors."""
    return {
        name: tensor
        for name, tensor in weights.items() if not name.startswith(
            ('decoder_', 'mask_token', 'aligned_feature_projection_heads'))
    }
