"""The config files: their names, and what holds for each of them."""
import os
from collections import Counter

import pytest

from tests.toys.models import ROOT
from tests.toys.recipes import ALL, BASELINES, CONFIGS, differences, load


def test_file_names_are_unique():
    """`mim train dmae_mm NAME` looks for a bare name in all folders."""
    names = Counter()
    for _, subfolders, files in os.walk(ROOT):
        subfolders[:] = [
            name for name in subfolders
            if not name.startswith(('.', '_dmae')) and name not in (
                'work_dirs', 'data', 'build', 'dist')
        ]
        names.update(files)
    twice = [
        path.name for path in CONFIGS.rglob('*.py') if names[path.name] != 1
    ]
    assert twice == []


@pytest.mark.parametrize('name', ALL)
def test_a_run_resumes_exactly_and_survives(name):
    """Exact resuming needs each of the first four."""
    cfg = load(name)
    hooks = [hook.type for hook in cfg.custom_hooks]
    assert cfg.train_dataloader.dataset.pipeline[0].type == 'SeedSample'
    assert cfg.train_dataloader.sampler.type == 'SeededSampler'
    assert cfg.train_cfg.type == 'ResumableTrainLoop'
    assert 'ExactResumeHook' in hooks
    assert cfg.train_dataloader.collate_fn.type == 'default_collate'
    assert cfg.default_hooks.checkpoint.type == 'AtomicCheckpointHook'
    assert cfg.default_hooks.runtime_info.type == 'FiniteLossHook'
    assert {'PreemptionHook', 'TeacherHook', 'PretrainedBackboneHook',
            'SkippedImagesHook'} < {*hooks}
    assert cfg.custom_imports.imports == ['dmae_mm']


@pytest.mark.parametrize('name', BASELINES)
def test_baseline_differs_in_the_teacher_only(name):
    size = BASELINES[name]
    assert differences(
        load(name).to_dict(),
        load(f'dmae/vit-{size}_dmae_in1k.py').to_dict()) == [
            'model.aligned_layers', 'model.teacher'
        ]
