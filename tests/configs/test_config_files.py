"""Names of the config files, and what tells them apart."""
import itertools
import os
from collections import Counter

import pytest

from tests.conftest import ROOT
from .recipes import (ALL, BASELINES, CONFIGS, DMAE, HIVIT, TIMM_TEACHERS,
                      differences, load)


def test_all_files_are_checked_here():
    found = {
        path.relative_to(CONFIGS).as_posix()
        for folder in ('dmae', 'ablations', 'baselines', 'benchmarks')
        for path in CONFIGS.glob(f'{folder}/*.py')
    }
    assert found == set(ALL)
    assert len(ALL) == len(found) == 75


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


@pytest.mark.parametrize('name', BASELINES)
def test_baseline_differs_in_the_teacher_only(name):
    size = BASELINES[name]
    assert differences(
        load(name).to_dict(),
        load(f'dmae/vit-{size}_dmae_in1k.py').to_dict()) == [
            'model.aligned_layers', 'model.teacher'
        ]


@pytest.mark.parametrize('name', [name for name in DMAE if 'mask' in name])
def test_mask_ratio_is_all_that_differs(name):
    size, _ = DMAE[name]
    assert differences(
        load(name).to_dict(),
        load(f'dmae/vit-{size}_dmae_in1k.py').to_dict()) == [
            'model.backbone.mask_ratio'
        ]


@pytest.mark.parametrize('name', TIMM_TEACHERS)
def test_another_teacher_is_all_that_differs(name):
    cfg = load(name).to_dict()
    changed = differences(cfg, load('dmae/vit-s_dmae_in1k.py').to_dict())
    assert {'.'.join(option.split('.')[:2])
            for option in changed} == {'model.teacher'}
    assert set(cfg['model']['teacher']) == {'type', 'model_name', 'pretrained'}


def test_hierarchical_student_is_all_that_differs():
    assert differences(
        load(HIVIT).to_dict(),
        load('dmae/vit-s_dmae_in1k.py').to_dict()) == [
            f'model.backbone.{option}'
            for option in ('arch', 'init_cfg', 'out_indices', 'type')
        ]


def test_no_two_configs_are_equal():
    configs = {name: load(name).to_dict() for name in ALL}
    equal = [(a, b) for a, b in itertools.combinations(ALL, 2)
             if configs[a] == configs[b]]
    assert equal == []
