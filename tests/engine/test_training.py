"""What the Runner does to a DMAE run: nothing that a user would not expect."""
import json
import os
import os.path as osp

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from mmengine.hooks import Hook
from mmengine.runner import Runner

import dmae_mm  # noqa: F401

from tests.toys.runs import config, end_workers, run


@pytest.mark.parametrize('num_workers', [0, 2])
def test_a_resumed_run_equals_the_uninterrupted_one(photos, tmp_path,
                                                    num_workers):
    """4 epochs = 2 + stop + 2: each loss and final weight, bit for bit."""
    whole, wanted = run(
        config(photos, tmp_path / 'whole', 4, num_workers=num_workers))
    cfg = config(photos, tmp_path / 'parts', 4, num_workers=num_workers)

    class Stop(Exception):
        pass

    class StopHook(Hook):
        priority = 'LOWEST'

        def after_train_epoch(self, runner):
            if runner.epoch == 1:
                raise Stop

    runner = Runner.from_cfg(cfg)
    runner.register_hook(StopHook())
    with pytest.raises(Stop):
        runner.train()
    end_workers(runner)
    resumed, losses = run(cfg, resume=True)
    assert len(wanted) == 16 and len(losses) == 8
    assert losses == wanted[8:]
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name]), name


def test_epochs_draw_different_crops(photos, tmp_path):
    """Also in worker processes, which MMEngine seeds alike every epoch."""
    cfg = config(photos, tmp_path, 2, num_workers=1)
    cfg.train_dataloader.sampler.shuffle = False
    batches = []

    class Record(Hook):

        def before_train_iter(self, runner, batch_idx, data_batch):
            if batch_idx == 0:
                batches.append(torch.stack(list(data_batch['inputs'])))

    runner = Runner.from_cfg(cfg)
    runner.register_hook(Record())
    runner.train()
    end_workers(runner)
    assert not torch.equal(batches[0], batches[1])


def test_checkpoint_is_the_controls_plus_the_projectors(photos, tmp_path):
    run(config(photos, tmp_path / 'dmae', 1))
    run(config(photos, tmp_path / 'mae', 1, teacher=False))
    files = [tmp_path / name / 'epoch_1.pth' for name in ('dmae', 'mae')]
    dmae, mae = (
        torch.load(file, map_location='cpu', weights_only=False)['state_dict']
        for file in files)
    assert not any('teacher' in name for name in dmae)
    assert dmae.keys() - mae.keys() == {
        'distill_neck.projectors.0.weight', 'distill_neck.projectors.0.bias'
    }
    # Weights and two moments of AdamW in float32; the rest is book-keeping.
    projectors = 3 * 4 * (24 * 32 + 32)
    size, control = (osp.getsize(file) for file in files)
    assert size - control < projectors + 8192


def test_the_teacher_is_not_optimised(photos, tmp_path):
    cfg = config(photos, tmp_path, 1)
    runner = Runner.from_cfg(cfg)
    before = runner.model.teacher.fingerprint()
    runner.train()
    optimised = {
        id(p)
        for group in runner.optim_wrapper.param_groups
        for p in group['params']
    }
    assert optimised == {id(p) for p in runner.model.parameters()}
    assert runner.model.teacher.fingerprint() == before


def test_ema_shares_the_teacher_and_averages_the_student(photos, tmp_path):
    ema = dict(type='EMAHook', ema_type='ExponentialMovingAverage',
               momentum=0.1)
    cfg = config(photos, tmp_path, 2)
    cfg.custom_hooks.append(ema)
    runner, losses = run(cfg)
    hook = next(h for h in runner.hooks if type(h).__name__ == 'EMAHook')
    averaged = hook.ema_model.module
    assert averaged.teacher is runner.model.teacher
    assert not torch.equal(averaged.backbone.layers[0].ln1.weight,
                           runner.model.backbone.layers[0].ln1.weight)
    checkpoint = torch.load(tmp_path / 'epoch_2.pth', weights_only=False)
    for part in ('state_dict', 'ema_state_dict'):
        assert not any('teacher' in name for name in checkpoint[part])
    fingerprint = runner.model.teacher.fingerprint()
    assert checkpoint['meta']['teacher']['fingerprint'] == fingerprint

    resumed, _ = run(
        cfg, resume=True, train_cfg=dict(max_epochs=3))
    hook = next(h for h in resumed.hooks if type(h).__name__ == 'EMAHook')
    assert hook.ema_model.module.teacher is resumed.model.teacher
    assert resumed.model.teacher.fingerprint() == fingerprint


def test_gradient_accumulation_equals_the_large_batch(photos, tmp_path):
    """Without randomness in data and masks, 4 x 4 images are 16 images."""
    weights = []
    for name, batch_size, counts in (('large', 16, 1), ('small', 4, 4)):
        cfg = config(photos, tmp_path / name, 1)
        cfg.train_dataloader.batch_size = batch_size
        cfg.train_dataloader.sampler.shuffle = False
        cfg.train_dataloader.dataset.pipeline = [
            dict(type='SeedSample'),
            dict(type='LoadImageFromFile'),
            dict(type='Resize', scale=(32, 32)),
            dict(type='PackInputs')
        ]
        cfg.model.backbone.mask_ratio = 0.0
        cfg.optim_wrapper.accumulative_counts = counts
        cfg.optim_wrapper.optimizer = dict(type='SGD', lr=0.1)
        cfg.param_scheduler = []
        runner, _ = run(cfg)
        weights.append(runner.model.state_dict())
    for name, tensor in weights[0].items():
        torch.testing.assert_close(
            tensor, weights[1][name], rtol=1e-4, atol=1e-6,
            msg=name)


def test_automatic_learning_rate_scaling(photos, tmp_path):
    cfg = config(photos, tmp_path, 1)
    cfg.auto_scale_lr = dict(base_batch_size=16, enable=True)
    runner, _ = run(cfg, param_scheduler=[])
    assert runner.optim_wrapper.get_lr()['lr'] == [1e-3 * 4 / 16]


@pytest.mark.slow
def test_compiled_training_gives_the_same_losses(photos, tmp_path):
    _, wanted = run(config(photos, tmp_path / 'plain', 1))
    _, losses = run(
        config(photos, tmp_path / 'compiled', 1),
        compile=dict(backend='aot_eager'))
    for ours, theirs in zip(losses, wanted, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5)


def test_losses_are_logged_under_their_names(photos, tmp_path):
    runner, losses = run(config(photos, tmp_path, 1))
    with open(next(tmp_path.glob('*/vis_data/scalars.json'))) as file:
        lines = [json.loads(line) for line in file]
    assert len(lines) == 4
    assert lines[-1].keys() >= {
        'loss', 'loss_recon', 'loss_align_s2_t3', 'lr'
    }


@pytest.mark.parametrize('content', ['nothing', 'text'])
def test_a_folder_without_images_is_an_error(content, tmp_path):
    (tmp_path / 'empty' / 'sub').mkdir(parents=True)
    if content == 'text':
        (tmp_path / 'empty' / 'readme.txt').write_text('no image')
    runner = Runner.from_cfg(config(str(tmp_path / 'empty'), tmp_path / 'out'))
    with pytest.raises(RuntimeError, match='Found 0 files.*empty.*png'):
        runner.train()
    assert not list((tmp_path / 'out').glob('*.pth'))


class TestTeacherHook:

    def test_refuses_to_resume_with_another_teacher(self, photos, tmp_path):
        cfg = config(photos, tmp_path, 1)
        run(cfg)
        with pytest.raises(ValueError, match='another teacher.*blocks.*3.*2'):
            run(cfg, resume=True, train_cfg=dict(max_epochs=2),
                model=dict(aligned_layers=[(2, 2)]))

    def test_loading_without_resuming_is_free(self, photos, tmp_path):
        run(config(photos, tmp_path / 'first', 1))
        cfg = config(photos, tmp_path / 'second', 1)
        cfg.model.aligned_layers = [(2, 2)]
        run(cfg, load_from=str(tmp_path / 'first' / 'epoch_1.pth'))

    def test_plain_mae_has_nothing_to_store(self, photos, tmp_path):
        run(config(photos, tmp_path, 1, teacher=False))
        meta = torch.load(tmp_path / 'epoch_1.pth', weights_only=False)['meta']
        assert 'teacher' not in meta


def _train_on_rank(rank, photos, work_dir, port):
    torch.set_num_threads(1)
    dist.init_process_group(
        'gloo', f'tcp://127.0.0.1:{port}', rank=rank, world_size=2)
    cfg = config(photos, work_dir, 2)
    os.environ['LOCAL_RANK'] = '0'
    cfg.launcher = 'pytorch'
    cfg.randomness = dict(seed=0, diff_rank_seed=True)
    cfg.model_wrapper_cfg = dict(
        type='MMDistributedDataParallel', device_ids=None,
        broadcast_buffers=False, find_unused_parameters=False)
    runner, losses = run(cfg)
    model = runner.model.module
    torch.save(
        dict(
            state=model.state_dict(),
            teacher=model.teacher.state_dict(),
            reduced=[name for name, _ in runner.model.named_parameters()],
            losses=losses), osp.join(work_dir, f'rank{rank}.pt'))
    dist.destroy_process_group()


def test_two_processes_end_with_equal_weights(photos, tmp_path):
    import socket
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    mp.spawn(_train_on_rank, (photos, str(tmp_path), port), nprocs=2)
    first, second = (
        torch.load(tmp_path / f'rank{rank}.pt') for rank in range(2))
    for part in ('state', 'teacher'):
        for name, tensor in first[part].items():
            assert torch.equal(tensor, second[part][name]), name
    assert not any('teacher' in name for name in first['reduced'])
    # Two masks and two halves of the data, or DDP did nothing.
    assert len(first['losses']) == len(second['losses']) == 4
    assert first['losses'][0] != second['losses'][0]
