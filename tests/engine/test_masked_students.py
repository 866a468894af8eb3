"""Runs of SimMIM's and SparK's students: resumed, distributed, checked."""
import copy
import os.path as osp

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from mmengine.config import Config

from dmae_mm.launch import complete_config, preflight
from tests.toys.masked_students import STUDENTS, masked_student
from tests.toys.resumable_runs import (assert_same_checkpoints, ended_by,
                                       resumable, start)
from tests.toys.runs import config, free_port, run

pytestmark = pytest.mark.slow
each_student = pytest.mark.parametrize('name', STUDENTS)
MASK = dict(
    type='SimMIMMaskGenerator',
    input_size=64,
    mask_patch_size=32,
    model_patch_size=4,
    mask_ratio=0.5)


def with_student(cfg: Config, name: str) -> Config:
    cfg = copy.deepcopy(cfg)
    cfg.model = masked_student(name)
    pipeline = cfg.train_dataloader.dataset.pipeline
    pipeline[2].scale = 64
    if name == 'SimMIM':
        pipeline.insert(-1, MASK)
    return cfg


@each_student
@pytest.mark.parametrize('num_workers', [0, 2])
def test_goes_on_exactly(photos, tmp_path, name, num_workers):
    runs = [
        with_student(
            resumable(photos, tmp_path / folder, num_workers,
                      mid_epoch_interval=2), name)
        for folder in ('whole', 'parts')
    ]
    _, wanted = start(runs[0])
    crashed, before = start(runs[1], crash_after=9)
    assert ended_by(crashed) == 'Crash'
    assert before.steps == wanted.steps[:9]
    _, after = start(runs[1], resume=True)
    assert after.steps == wanted.steps[8:]
    assert_same_checkpoints(tmp_path / 'parts' / 'epoch_3.pth',
                            tmp_path / 'whole' / 'epoch_3.pth')


def _train_on_rank(rank, photos, work_dir, port, name):
    torch.set_num_threads(1)
    dist.init_process_group(
        'gloo', f'tcp://127.0.0.1:{port}', rank=rank, world_size=2)
    cfg = with_student(config(photos, work_dir, 2), name)
    cfg.launcher = 'pytorch'
    cfg.randomness = dict(seed=0, diff_rank_seed=True)
    cfg.model_wrapper_cfg = dict(
        type='MMDistributedDataParallel', device_ids=None,
        broadcast_buffers=False, find_unused_parameters=False)
    runner, losses = run(cfg)
    torch.save(
        dict(parameters=dict(runner.model.module.named_parameters()),
             losses=losses), osp.join(work_dir, f'rank{rank}.pt'))
    dist.destroy_process_group()


@each_student
def test_two_processes_end_with_equal_weights(photos, tmp_path, name,
                                              monkeypatch):
    monkeypatch.setenv('LOCAL_RANK', '0')
    mp.spawn(
        _train_on_rank, (photos, str(tmp_path), free_port(), name), nprocs=2)
    first, second = (
        torch.load(tmp_path / f'rank{rank}.pt', weights_only=False)
        for rank in range(2))
    for key, tensor in first['parameters'].items():
        assert torch.equal(tensor, second['parameters'][key]), key
    assert len(first['losses']) == 4
    assert first['losses'][0] != second['losses'][0]


@each_student
def test_a_check_of_the_run(photos, tmp_path, name):
    cfg = with_student(config(photos, tmp_path / 'out'), name)
    cfg.experiment_name = f'{tmp_path}'
    cfg.launcher = 'none'
    assert complete_config(cfg, {}) == []
    said = []
    assert preflight(cfg, said.append), said
    assert said[-1].endswith('the run can be started.')
