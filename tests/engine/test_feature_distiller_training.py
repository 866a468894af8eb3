"""A FeatureDistiller trains as any model of the host, and what it saves is a
plain backbone."""
import os
from pathlib import Path

import pytest
import timm
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from mmengine.config import Config
from mmpretrain.registry import MODELS

from dmae_mm.evaluation import probe_checkpoint
from dmae_mm.launch.preflight import preflight
from tests.toys.folders import write_classes
from tests.toys.models import DISTILLER, NARROW_RESNET
from tests.toys.resumable_runs import (assert_same_checkpoints, ended_by,
                                       resumable, start)
from tests.toys.runs import config, free_port, run

MODEL = dict(DISTILLER, aligned_layers=[(1, 2), (-1, -1)], mask_ratio=0.25)
PROBE = 'default_hooks.probe'


def with_model(cfg: Config, **changes) -> Config:
    cfg.model = dict(MODEL, **changes)
    # The last batch of an epoch would have one image.
    cfg.train_dataloader.drop_last = True
    return cfg


@pytest.mark.slow
def test_goes_on_exactly_and_is_evaluated_and_loaded(photos, tmp_path):
    start(with_model(resumable(photos, tmp_path / 'whole')))
    cfg = with_model(
        resumable(photos, tmp_path / 'parts', mid_epoch_interval=2))
    crashed, _ = start(cfg, crash_after=8)
    assert ended_by(crashed) == 'Crash'
    start(cfg, resume=True)
    checkpoint = str(tmp_path / 'whole' / 'epoch_3.pth')
    assert_same_checkpoints(tmp_path / 'parts' / 'epoch_3.pth', checkpoint)
    content = torch.load(checkpoint, weights_only=False)
    for part in ('state_dict', 'ema_state_dict'):
        assert not any('teacher' in name for name in content[part])
    assert content['meta']['teacher']['aligned_blocks'] == [2, 5]

    cfg.dump(tmp_path / 'config.py')
    results = probe_checkpoint(
        str(tmp_path / 'config.py'), checkpoint,
        write_classes(tmp_path / 'train', 3, 6, seed=1),
        write_classes(tmp_path / 'test', 3, 5, seed=2),
        img_size=32, num_workers=0, cache=str(tmp_path / 'cache'))
    assert results['width'] == 64 and results['knn'] > 40

    # In any config of OpenMMLab, which here is mmpretrain's own.
    loaded = MODELS.build(dict(
        NARROW_RESNET, init_cfg=dict(
            type='Pretrained', checkpoint=checkpoint, prefix='backbone.')))
    loaded.init_weights()
    loaded.eval()
    images = torch.randn(2, 3, 64, 64)
    trained = MODELS.build(dict(MODEL))
    trained.load_state_dict(content['state_dict'])
    trained.eval()
    torch.testing.assert_close(
        loaded(images)[0], trained.extract_feat(images)[-1], rtol=1e-5,
        atol=1e-6)


@pytest.mark.slow
def test_a_model_of_timm(photos, tmp_path):
    cfg = with_model(
        config(photos, tmp_path, 1), aligned_layers=[(-1, -1)],
        backbone=dict(type='TIMMBackbone', model_name='resnet18'))
    cfg.custom_hooks.append(dict(type='EMAHook', momentum=0.1))
    runner, losses = run(cfg)
    assert len(losses) == 4
    names = 'backbone.timm_model.'
    weights = {
        name[len(names):]: tensor
        for name, tensor in runner.model.state_dict().items()
        if name.startswith(names)}
    model = timm.create_model('resnet18', num_classes=0)
    model.load_state_dict(weights)
    model.eval()
    runner.model.eval()
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(
        model.forward_features(images),
        runner.model.extract_feat(images)[-1], rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_it_is_watched_and_checked(photos, tmp_path):
    cfg = with_model(config(photos, tmp_path / 'out', 1))
    cfg.custom_hooks += [
        dict(type='FiniteLossHook'),
        dict(
            type='OnlineProbeHook', interval=1, img_size=32,
            train_root=write_classes(tmp_path / 'train', 3, 6, seed=1),
            test_root=write_classes(tmp_path / 'test', 3, 5, seed=2))
    ]
    said = []
    assert preflight(cfg, said.append), said
    runner, _ = run(cfg)
    assert runner.message_hub.get_scalar('probe/knn').current() > 40
    cfg.train_dataloader.batch_size = 1
    cfg.work_dir += '-1'
    said = []
    assert not preflight(cfg, said.append)
    assert any('one image' in line for line in said), said


def _train_on_rank(rank, photos, work_dir, port):
    torch.set_num_threads(1)
    dist.init_process_group(
        'gloo', f'tcp://127.0.0.1:{port}', rank=rank, world_size=2)
    os.environ['LOCAL_RANK'] = '0'
    # Stages 2 and 3 learn nothing, which DDP must not wait for.
    cfg = with_model(config(photos, work_dir, 2), aligned_layers=[(1, 2)])
    cfg.launcher = 'pytorch'
    cfg.randomness = dict(seed=0, diff_rank_seed=True)
    cfg.model_wrapper_cfg = dict(
        type='MMDistributedDataParallel', device_ids=None,
        broadcast_buffers=False, find_unused_parameters=False)
    runner, losses = run(cfg)
    torch.save(dict(state=runner.model.module.state_dict(), losses=losses),
               Path(work_dir) / f'rank{rank}.pt')
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_end_with_equal_weights(photos, tmp_path):
    mp.spawn(_train_on_rank, (photos, str(tmp_path), int(free_port())),
             nprocs=2)
    first, second = (
        torch.load(tmp_path / f'rank{rank}.pt') for rank in range(2))
    for name, tensor in first['state'].items():
        if 'running_' not in name:  # each process has its own
            assert torch.equal(tensor, second['state'][name]), name
    assert len(first['losses']) == len(second['losses']) == 4
    assert first['losses'][0] != second['losses'][0]
