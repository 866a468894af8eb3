"""Toy models, images and files that the tests share."""
import copy
from pathlib import Path

import pytest
import torch

import dmae_mm  # noqa: F401

ROOT = Path(__file__).parents[1]

# 16 patches of 8 px; the student is 4 blocks, 24 wide, the teacher 6 and 32.
STUDENT = dict(
    embed_dims=24, num_layers=4, num_heads=2, feedforward_channels=96)
TEACHER = dict(
    embed_dims=32, num_layers=6, num_heads=2, feedforward_channels=128)
TOY_MODEL = dict(
    type='DMAE',
    backbone=dict(
        type='MAEViT', arch=STUDENT, img_size=32, patch_size=8,
        mask_ratio=0.75),
    neck=dict(
        type='MAEPretrainDecoder',
        num_patches=16,
        patch_size=8,
        embed_dim=24,
        decoder_embed_dim=16,
        decoder_depth=2,
        decoder_num_heads=2),
    head=dict(
        type='MAEPretrainHead',
        patch_size=8,
        loss=dict(type='PixelReconstructionLoss', criterion='L2')),
    teacher=dict(
        type='MMPretrainTeacher',
        backbone=dict(type='MAEViT', arch=TEACHER, img_size=32, patch_size=8),
        checkpoint=None,
        allow_random=True),
    aligned_layers=[(2, 3)])


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
