"""What the Runner does to a distilled classifier: nothing unexpected."""
import copy
import os
import os.path as osp
import socket

import cv2
import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from mmengine.config import Config
from mmengine.runner import Runner

import dmae_mm  # noqa: F401
from tests.toys.runs import run
from tests.toys.models import classifier, saved, student


@pytest.fixture(scope='module')
def photos(tmp_path_factory):
    """16 small images of four classes, and the teacher's weights."""
    root = tmp_path_factory.mktemp('photos')
    rng = np.random.default_rng(0)
    for index in range(16):
        (root / 'train' / str(index % 4)).mkdir(parents=True, exist_ok=True)
        coarse = rng.integers(0, 255, (4, 4, 3), dtype=np.uint8)
        cv2.imwrite(
            str(root / 'train' / str(index % 4) / f'{index:02}.png'),
            cv2.resize(coarse, (32, 32)))
    saved(root / 'tuned.pth', classifier())
    return str(root)


def config(photos, work_dir, epochs=2):
    model = student(
        aligned_layers=[(2, 3)],
        train_cfg=dict(augments=[
            dict(type='Mixup', alpha=0.8),
            dict(type='CutMix', alpha=1.0)
        ]))
    model['backbone']['drop_path_rate'] = 0.2
    model['teacher'].update(
        checkpoint=osp.join(photos, 'tuned.pth'), allow_random=False)
    return Config(
        dict(
            default_scope='mmpretrain',
            model=model,
            work_dir=str(work_dir),
            data_preprocessor=dict(
                num_classes=5, mean=[127.5] * 3, std=[127.5] * 3),
            train_dataloader=dict(
                batch_size=4,
                num_workers=0,
                sampler=dict(type='DefaultSampler', shuffle=True),
                collate_fn=dict(type='default_collate'),
                dataset=dict(
                    type='CustomDataset',
                    data_root=osp.join(photos, 'train'),
                    pipeline=[
                        dict(type='LoadImageFromFile'),
                        dict(type='RandomFlip', prob=0.5),
                        dict(type='PackInputs')
                    ])),
            optim_wrapper=dict(
                type='OptimWrapper',
                optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05),
                constructor='LearningRateDecayOptimWrapperConstructor',
                paramwise_cfg=dict(layer_decay_rate=0.75)),
            train_cfg=dict(type='EpochBasedTrainLoop', max_epochs=epochs),
            default_hooks=dict(
                logger=dict(type='LoggerHook', interval=1),
                checkpoint=dict(type='CheckpointHook', interval=1)),
            custom_hooks=[
                dict(type='ExactResumeHook'),
                dict(type='TeacherHook'),
                dict(type='PretrainedBackboneHook')
            ],
            randomness=dict(seed=0),
            log_level='ERROR'))


def test_a_resumed_run_equals_the_uninterrupted_one(photos, tmp_path):
    """2 epochs = 1 + stop + 1, with an average of the student."""
    ema = dict(type='EMAHook', momentum=0.1)
    whole, halves = (config(photos, tmp_path / name) for name in 'wp')
    for cfg in (whole, halves):
        cfg.custom_hooks.append(ema)
    runner, wanted = run(whole)
    parts = {'loss_cls', 'loss_logits', 'loss_align_s2_t3'}
    assert wanted[0].keys() == {'loss', *parts}
    for step in wanted:  # the log's loss is what is trained, the sum
        assert step['loss'] == pytest.approx(sum(step[p] for p in parts))
    run(halves, train_cfg=dict(max_epochs=1))
    resumed, losses = run(halves, resume=True)
    assert len(losses) == 4 and losses == wanted[4:]
    for name, tensor in runner.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name]), name
    averaged = next(
        hook for hook in resumed.hooks
        if type(hook).__name__ == 'EMAHook').ema_model.module
    assert averaged.teacher is resumed.model.teacher
    checkpoint = torch.load(
        tmp_path / 'p' / 'epoch_2.pth', weights_only=False)
    for part in ('state_dict', 'ema_state_dict'):
        assert not any('teacher' in name for name in checkpoint[part])
    teacher = checkpoint['meta']['teacher']
    assert teacher['type'] == 'ClassifierTeacher'
    assert teacher['fingerprint'] == resumed.model.teacher.fingerprint()
    saved(tmp_path / 'other.pth', classifier(backbone=dict(qkv_bias=False)))
    with pytest.raises(ValueError, match='another teacher'):
        run(halves, resume=True, model=dict(
            teacher=dict(checkpoint=str(tmp_path / 'other.pth'),
                         model=dict(backbone=dict(qkv_bias=False)))))


def test_the_checkpoint_of_another_backbone_stops_the_run(photos, tmp_path):
    cfg = config(photos, tmp_path)
    cfg.model.backbone.init_cfg = dict(
        type='Pretrained', checkpoint=osp.join(photos, 'tuned.pth'),
        prefix='backbone.')
    with pytest.raises(ValueError, match='init_cfg.checkpoint.*6 blocks inst'):
        run(cfg)
    assert not list(tmp_path.glob('*.pth'))


def _train_on_rank(rank, photos, work_dir, port):
    torch.set_num_threads(1)
    dist.init_process_group(
        'gloo', f'tcp://127.0.0.1:{port}', rank=rank, world_size=2)
    cfg = config(photos, work_dir, 1)
    os.environ['LOCAL_RANK'] = '0'
    cfg.launcher = 'pytorch'
    cfg.randomness = dict(seed=0, diff_rank_seed=True)
    cfg.model_wrapper_cfg = dict(
        type='MMDistributedDataParallel', device_ids=None,
        broadcast_buffers=False, find_unused_parameters=False)
    runner, losses = run(cfg)
    torch.save(
        dict(
            state=runner.model.module.state_dict(),
            teacher=runner.model.module.teacher.fingerprint(),
            losses=losses), osp.join(work_dir, f'rank{rank}.pt'))
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_end_with_equal_weights(photos, tmp_path):
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    mp.spawn(_train_on_rank, (photos, str(tmp_path), port), nprocs=2)
    first, second = (
        torch.load(tmp_path / f'rank{rank}.pt') for rank in range(2))
    for name, tensor in first['state'].items():
        assert torch.equal(tensor, second['state'][name]), name
    assert first['teacher'] == second['teacher']
    assert len(first['losses']) == 2
    assert first['losses'][0] != second['losses'][0]


def test_validation_does_not_run_the_teacher(photos, tmp_path):
    cfg = config(photos, tmp_path, 1)
    cfg.val_dataloader = copy.deepcopy(cfg.train_dataloader)
    cfg.val_dataloader.sampler.shuffle = False
    cfg.val_evaluator = dict(type='Accuracy')
    cfg.val_cfg = dict()
    cfg.model.teacher.checkpoint = 'gone.pth'
    cfg.test_dataloader = cfg.val_dataloader
    cfg.test_evaluator, cfg.test_cfg = cfg.val_evaluator, dict()
    metrics = Runner.from_cfg(cfg).test()
    assert 0 <= metrics['accuracy/top1'] <= 100
