"""What the Runner does to a DMAE run: nothing that a user would not expect."""
import json
import os
import os.path as osp

import cv2
import numpy as np
import pytest
import tifffile
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from mmengine.hooks import Hook
from mmengine.runner import Runner

import dmae_mm  # noqa: F401
from dmae_mm.datasets.seeds import derive_seed, seed_step
from dmae_mm.evaluation import probe_checkpoint
from dmae_mm.evaluation.layer_similarity import compare_layers
from dmae_mm.evaluation.pictures import draw_reconstructions
from dmae_mm.evaluation.reconstruction import reconstruct_with_checkpoint
from dmae_mm.weights import export_checkpoint

from tests.toys.band_files import write_band_classes, write_tiff
from tests.toys.folders import write_images
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


@pytest.mark.slow
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


def with_channels(photos, work_dir, channels):
    """A config with a teacher of the first channel, on 12-bit TIFF files."""
    cfg = config(photos, work_dir, epochs=1)
    patches = dict(in_channels=channels)
    cfg.model.backbone.patch_cfg = patches
    cfg.model.neck.in_chans = cfg.model.head.in_channels = channels
    cfg.model.teacher.backbone.patch_cfg = dict(in_channels=1)
    cfg.model.teacher.channels = [0]
    cfg.data_preprocessor.update(
        mean=[100. + 10 * i for i in range(channels)],
        std=[50. + i for i in range(channels)])
    dataset = cfg.train_dataloader.dataset
    dataset.extensions = ('.tif', )
    dataset.pipeline[1:4] = [
        dict(type='LoadImageOrSkip', channels=channels,
             value_range=(0, 4095)),
        dict(type='FastRandomResizedCrop', scale=32, flip_prob=0.5)
    ]
    return cfg


@pytest.mark.parametrize('channels', [1, 2, 4, 5])
def test_students_of_any_number_of_channels(channels, tmp_path, monkeypatch):
    """Trained, watched, evaluated, drawn, compared, exported."""
    monkeypatch.chdir(tmp_path)
    for split, seed in (('train', 1), ('test', 2)):
        write_band_classes(tmp_path / split, 2, 8, channels, seed)
    cfg = with_channels('train', tmp_path / 'out', channels)
    cfg.custom_imports = dict(imports=['dmae_mm'])
    cfg.custom_hooks += [
        dict(type='OnlineProbeHook', train_root='train', test_root='test'),
        dict(type='ReconstructionVisualizationHook')
    ]
    cfg.dump('config.py')
    runner, losses = run(cfg)
    assert np.isfinite([step['loss'] for step in losses]).all()
    probed = runner.message_hub.get_scalar('probe/knn').current()
    files = 'config.py', 'out/epoch_1.pth'
    found = probe_checkpoint(*files, 'train', 'test', linear=False,
                             num_workers=0, device='cpu')
    assert found['knn'] == probed and found['value_range'] == (0, 4095)

    # What was drawn is what a person computes from the file.
    path = 'test/class1/3.tif'
    (one, ), = reconstruct_with_checkpoint(
        *files, [path], crop_pct=1., device='cpu')[0]
    pixels = np.atleast_3d(tifffile.imread(path)) * (255 / 4095)
    shown = [0, 1, 2] if channels > 3 else [0, 0, 0]
    wanted = np.rint(pixels)[..., shown]
    found = one.original.astype(float)
    small = cv2.resize(wanted[:, 2:38], (32, 32), interpolation=cv2.INTER_AREA)
    assert abs(found.mean((0, 1)) - small.mean((0, 1))).max() < 1
    assert (one.channels, one.shown) == (channels, tuple(shown))
    assert draw_reconstructions([[one]]).shape[2] == 3

    found = compare_layers('config.py', 'test', files[1], num_workers=0,
                           device='cpu')
    assert found['num_images'] == 16
    for to in ('timm', 'mmpretrain', 'mmseg'):
        end = 'safetensors' if to == 'timm' else 'pth'
        exported = export_checkpoint(*files, f'{to}.{end}', to)
        assert max(exported.differences.values()) < 1e-4
        assert str(mean := [100., 110., 120., 130., 140.][:channels]) in (
            exported.usage + exported.data_preprocessor + ''.join(
                exported.notes)) or to == 'timm', mean


def test_a_step_of_five_channels_by_hand(tmp_path):
    """The pipeline's losses are those of a batch that is made by hand."""
    for index in range(4):
        rng = np.random.RandomState(index)
        write_tiff(tmp_path / 'images' / f'{index}.tif',
                   rng.randint(0, 4096, (32, 32, 5)).astype(np.uint16))
    cfg = with_channels(str(tmp_path / 'images'), tmp_path / 'out', 5)
    cfg.train_dataloader.sampler.shuffle = False
    cfg.train_dataloader.dataset.pipeline[2] = dict(
        type='CenterCrop', crop_size=32)
    runner, (losses, ) = run(cfg, **{
        'optim_wrapper.optimizer.lr': 0., 'train_cfg.max_epochs': 1})
    pixels = np.stack([
        tifffile.imread(tmp_path / 'images' / f'{i}.tif') for i in range(4)
    ]).astype(np.float64)
    images = np.rint(pixels * 255 / 4095)
    images = (images - [100, 110, 120, 130, 140]) / [50, 51, 52, 53, 54]
    images = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    model = runner.model
    seen = []
    model.backbone.register_forward_pre_hook(
        lambda module, args: seen.append(args[0]))
    batch = next(iter(runner.train_dataloader))
    inputs = model.data_preprocessor(batch, True)['inputs']
    torch.testing.assert_close(inputs, images, rtol=1e-6, atol=1e-5)
    seed_step(derive_seed('step', 0, 0, 0))
    by_hand = model.loss(images, batch['data_samples'])
    assert {name: pytest.approx(float(value.detach()), rel=1e-5)
            for name, value in by_hand.items()} == {
                name: value for name, value in losses.items()
                if name != 'loss'}


def test_images_of_other_channels_than_the_models(tmp_path):
    write_images(tmp_path, '0.png', '1.png', '2.png', '3.png')
    cfg = with_channels(str(tmp_path), tmp_path / 'out', 5)
    cfg.train_dataloader.dataset.extensions = ('.png', )
    with pytest.raises(ValueError, match="png' cannot be used: 3 channels, "
                       'but channels=5 are wanted'):
        run(cfg)
    del cfg.train_dataloader.dataset.pipeline[1]['channels']
    with pytest.raises(ValueError, match='images have 3 channels, but the '
                       'model takes 5. .*channels=5'):
        run(cfg)
