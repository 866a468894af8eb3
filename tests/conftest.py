"""Fixtures that the tests share; what they are made of is in toys/."""
import copy

import cv2
import numpy as np
import pytest
import torch

import dmae_mm  # noqa: F401
from tests.toys.models import TOY_MODEL

@pytest.fixture(scope='session', autouse=True)
def _few_threads():
    # More threads than cores, with several processes at work, would spin.
    torch.set_num_threads(1)


@pytest.fixture
def toy_model() -> dict:
    """Config of a toy DMAE with a random teacher, to change at will."""
    return copy.deepcopy(TOY_MODEL)


@pytest.fixture
def images() -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(3, 3, 32, 32, generator=generator)


@pytest.fixture(scope='session')
def photos(tmp_path_factory):
    """A folder of 16 small images without labels."""
    root = tmp_path_factory.mktemp('photos')
    rng = np.random.default_rng(0)
    for i in range(16):
        coarse = rng.integers(0, 255, (4, 4, 3), dtype=np.uint8)
        cv2.imwrite(str(root / f'{i:02}.png'), cv2.resize(coarse, (48, 48)))
    return str(root)
