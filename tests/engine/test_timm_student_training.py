"""A student of timm trains as any other: it resumes exactly, in two processes
it stays one, and what it saves is timm's."""
import os

import pytest
import timm
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from dmae_mm.weights import read_tensor_file
from dmae_mm.weights.names import timm_model_state_dict
from tests.toys.models import timm_student
from tests.toys.resumable_runs import (assert_same_checkpoints, ended_by,
                                       resumable, start)
from tests.toys.runs import config, free_port, run

# Registers, and drop path, which draws random numbers behind the mask.
STUDENT = timm_student(model_name='vit_small_patch14_reg4_dinov2')
STUDENT['model_kwargs']['drop_path_rate'] = .3


def with_timm(cfg):
    cfg.model.backbone = STUDENT
    return cfg


@pytest.mark.slow
def test_goes_on_exactly(photos, tmp_path):
    start(with_timm(resumable(photos, tmp_path / 'whole')))
    cfg = with_timm(
        resumable(photos, tmp_path / 'parts', mid_epoch_interval=2))
    crashed, _ = start(cfg, crash_after=9)
    assert ended_by(crashed) == 'Crash'
    start(cfg, resume=True)
    assert_same_checkpoints(tmp_path / 'parts' / 'epoch_3.pth',
                            tmp_path / 'whole' / 'epoch_3.pth')
    weights = timm_model_state_dict(
        read_tensor_file(str(tmp_path / 'whole' / 'epoch_3.pth')).tensors)
    timm.create_model(
        STUDENT['model_name'], img_size=32, num_classes=0,
        **STUDENT['model_kwargs']).load_state_dict(weights)


def _train_on_rank(rank, photos, work_dir, port):
    torch.set_num_threads(1)
    dist.init_process_group(
        'gloo', f'tcp://127.0.0.1:{port}', rank=rank, world_size=2)
    os.environ['LOCAL_RANK'] = '0'
    cfg = with_timm(config(photos, work_dir, 2))
    cfg.launcher = 'pytorch'
    cfg.randomness = dict(seed=0, diff_rank_seed=True)
    cfg.model_wrapper_cfg = dict(
        type='MMDistributedDataParallel', device_ids=None,
        broadcast_buffers=False, find_unused_parameters=False)
    runner, losses = run(cfg)
    torch.save(dict(state=runner.model.module.state_dict(), losses=losses),
               os.path.join(work_dir, f'rank{rank}.pt'))
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_end_with_equal_weights(photos, tmp_path):
    mp.spawn(_train_on_rank, (photos, str(tmp_path), int(free_port())),
             nprocs=2)
    first, second = (
        torch.load(tmp_path / f'rank{rank}.pt') for rank in range(2))
    for name, tensor in first['state'].items():
        assert torch.equal(tensor, second['state'][name]), name
    # Two masks and two halves of the data, or DDP did nothing.
    assert len(first['losses']) == len(second['losses']) == 4
    assert first['losses'][0] != second['losses'][0]
