"""Images, a teacher and a machine for plans of toy size."""
from collections import Counter

import numpy as np
import pytest
import timm
import torch

from dmae_mm.datasets import ImageSurvey
from dmae_mm.workflow.machine import Machine


@pytest.fixture(scope='session')
def teacher(tmp_path_factory):
    """test_vit3 of timm with random weights: 9 blocks of 96, 160 px."""
    path = tmp_path_factory.mktemp('teacher') / 'test_vit3.pth'
    with torch.random.fork_rng():
        torch.save(timm.create_model('test_vit3').state_dict(), path)
    return f'test_vit3={path}'


@pytest.fixture(autouse=True)
def hub_answers(monkeypatch):
    """Nothing is fetched from it."""
    monkeypatch.setattr('dmae_mm.models.timm_vits._hub_answers', lambda: True)


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    """Say on which machine a plan is made; by default 4 cores, no GPU."""

    def use(gpu=False, bfloat16=False, memory=16., cores=4):
        monkeypatch.setattr(Machine, 'here', classmethod(
            lambda cls: cls(gpu, bfloat16, memory, cores)))

    use()
    return use


@pytest.fixture
def survey():

    def make(num_images=1000, side=375, root='images', broken=(), **changes):
        return ImageSurvey(**dict(
            dict(
                root=root,
                num_images=num_images,
                sampled=50,
                heights=np.full(50, side),
                widths=np.full(50, side + 125),
                modes=Counter(RGB=50),
                bit_depths=Counter({8: 50}),
                channels=3,
                value_range=None,
                broken=list(broken),
                ignored=Counter(),
                hidden=0,
                duplicates=[]), **changes))

    return make
