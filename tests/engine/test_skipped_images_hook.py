"""A training meets broken images: it goes on, counts them, and gives up."""
import logging
import os
import socket
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from mmpretrain.registry import MODELS

from dmae_mm.datasets import BadImageError
from dmae_mm.engine.hooks import SkippedImagesHook
from dmae_mm.engine.hooks.skipped_images_hook import TooManyBadImagesError
from tests.toys.odd_files import broken_files, encode, odd_files, photo, write


@MODELS.register_module(force=True)
class TinyMean(BaseModel):
    """Learns something from each batch, in no time."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def forward(self, inputs, data_samples=None, mode='loss'):
        return dict(loss=self.weight * inputs.float().mean() / 255)


class Names(Hook):
    """The files of each batch."""

    def __init__(self):
        self.batches = []

    def after_train_iter(self, runner, batch_idx, data_batch, outputs):
        self.batches.append(
            [Path(s.img_path).name for s in data_batch['data_samples']])


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """120 files, of which 6 are broken (5%) and 15 odd."""
    root = tmp_path_factory.mktemp('images')
    write(root, broken_files())
    write(root, odd_files())
    jpegs = {f'{i:03}.jpg': encode(photo(i), 'JPEG') for i in range(99)}
    write(root, jpegs)
    return root


def runner(folder, work_dir, hook=None, epochs=1, num_workers=0, **changes):
    cfg = Config(
        dict(
            default_scope='mmpretrain',
            model=dict(type='TinyMean'),
            work_dir=str(work_dir),
            experiment_name=f'{Path(work_dir).name}{os.urandom(4).hex()}',
            train_dataloader=dict(
                batch_size=10,
                num_workers=num_workers,
                sampler=dict(type='SeededSampler', shuffle=True),
                collate_fn=dict(type='default_collate'),
                dataset=dict(
                    type='CustomDataset',
                    data_root=str(folder),
                    with_label=False,
                    extensions=('.jpg', '.png', '.tif', '.webp', '.bmp',
                                '.ppm'),
                    pipeline=[
                        dict(type='SeedSample'),
                        dict(type='LoadImageOrSkip'),
                        dict(type='FastRandomResizedCrop', scale=8),
                        dict(
                            type='PackInputs',
                            meta_keys=('img_path', 'sample_idx',
                                       'skipped_images'))
                    ])),
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
            train_cfg=dict(by_epoch=True, max_epochs=epochs),
            custom_hooks=[hook] if hook else [],
            default_hooks=dict(logger=dict(type='LoggerHook', interval=1)),
            randomness=dict(seed=0),
            log_level='ERROR'))
    cfg.merge_from_dict(changes)
    made = Runner.from_cfg(cfg)
    made.logger.setLevel(logging.WARNING)
    return made


class Warnings(logging.Handler):
    """What a runner's log says, from WARNING on."""

    def __init__(self, runner):
        super().__init__()
        self.lines = []
        runner.logger.addHandler(self)

    def emit(self, record):
        self.lines.append(record.getMessage())


def skipped(lines):
    return sorted(
        Path(line.split("'")[1]).name for line in lines
        if line.startswith('Skipped'))


def test_training_goes_on_and_counts_right(folder, tmp_path):
    """Two epochs: each broken file is named once; no other one is lost."""
    made = runner(folder, tmp_path, dict(type='SkippedImagesHook', interval=3),
                  epochs=2, num_workers=2)
    log, names = Warnings(made), Names()
    made.register_hook(names)
    made.train()
    assert skipped(log.lines) == sorted(broken_files())
    assert log.lines[-1].startswith('6 of 120 images (5%) could not be used')
    reasons = ' '.join(log.lines)
    for reason in ('empty file', '65000 x 65000 pixels, more than max_pixels',
                   'cut off'):
        assert reason in reasons
    good = set(odd_files()) | {f'{i:03}.jpg' for i in range(99)}
    for epoch in (names.batches[:12], names.batches[12:]):
        used = [name for batch in epoch for name in batch]
        assert len(used) == 120  # 6 were drawn in place of the broken ones
        assert set(used) == good
    assert 'skipped_images' in (next(
        tmp_path.glob('*/vis_data/scalars.json')).read_text())


def test_replacements_do_not_depend_on_workers(folder, tmp_path):
    batches = []
    for workers in (0, 2):
        made = runner(folder, tmp_path, dict(type='SkippedImagesHook'),
                      num_workers=workers)
        names = Names()
        made.register_hook(names)
        made.train()
        batches.append((names.batches, made.model.weight.item()))
    assert batches[0] == batches[1]


@pytest.mark.parametrize('limit, stops', [(0.0499, True), (0.05, False),
                                          (0, True)])
def test_more_than_a_fraction_is_an_error(folder, tmp_path, limit, stops):
    hook = dict(type='SkippedImagesHook', max_fraction=limit)
    made = runner(folder, tmp_path, hook)
    if not stops:
        made.train()
        return
    with pytest.raises(TooManyBadImagesError) as error:
        made.train()
    message = str(error.value)
    assert f'6 of 120 images (5%) cannot be used, more than max_fraction=' \
        f'{limit}' in message
    assert 'and 1 more' in message and 'max_fraction=...' in message
    assert sum(name in message for name in broken_files()) == 5


def test_without_the_hook_a_broken_file_is_an_error(folder, tmp_path):
    with pytest.raises(BadImageError, match='SkippedImagesHook'):
        runner(folder, tmp_path).train()


def test_a_folder_of_broken_files_ends(tmp_path):
    folder = tmp_path / 'texts'
    folder.mkdir()
    write(folder, {f'{i}.png': b'text' for i in range(4)})
    made = runner(folder, tmp_path, dict(type='SkippedImagesHook'))
    with pytest.raises(BadImageError, match='100 files in a row.*no image'):
        made.train()


def test_a_resumed_run_goes_on_counting(folder, tmp_path):
    """It names nothing again, and the limit is that of the whole run."""
    hook = dict(type='SkippedImagesHook')
    changes = {'default_hooks.checkpoint.type': 'CheckpointHook'}
    runner(folder, tmp_path, hook, **changes).train()
    made = runner(folder, tmp_path, hook, epochs=2, resume=True, **changes)
    log = Warnings(made)
    made.train()
    assert skipped(log.lines) == []
    assert log.lines[-1].startswith('6 of 120 images')


def test_names_that_would_get_lost_are_refused(folder, tmp_path):
    made = runner(folder, tmp_path, dict(type='SkippedImagesHook'))
    pack = made.train_dataloader.dataset.pipeline.transforms[-1]
    pack.meta_keys = ('img_path', 'sample_idx')
    with pytest.raises(ValueError, match="meta_keys=.*'skipped_images'"):
        made.train()


@pytest.mark.parametrize('options', [
    dict(max_fraction=-0.1), dict(max_fraction=1.1), dict(max_fraction='1'),
    dict(interval=0), dict(interval=1.5)])
def test_illegal_options(options):
    (name, value), = options.items()
    with pytest.raises(ValueError, match=f'{name}={value!r} is not'):
        SkippedImagesHook(**options)


def _train_on_rank(rank, folder, work_dir, port):
    torch.set_num_threads(1)
    dist.init_process_group(
        'gloo', f'tcp://127.0.0.1:{port}', rank=rank, world_size=2)
    os.environ['LOCAL_RANK'] = '0'
    result = {}
    for limit in (0.1, 0.03):
        made = runner(
            folder, f'{work_dir}/{limit}',
            dict(type='SkippedImagesHook', max_fraction=limit, interval=2),
            launcher='pytorch',
            model_wrapper_cfg=dict(
                type='MMDistributedDataParallel', device_ids=None))
        log = Warnings(made)
        made.logger.setLevel(logging.WARNING)
        try:
            made.train()
            error = None
        except TooManyBadImagesError as stop:
            error = str(stop)
        result[limit] = dict(
            error=error, iteration=made.iter, named=skipped(log.lines))
    torch.save(result, f'{work_dir}/rank{rank}.pt')
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_decide_alike(folder, tmp_path):
    """Each sees half of the files; both stop at the same step, or neither."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    mp.spawn(_train_on_rank, (folder, str(tmp_path), port), nprocs=2)
    first, second = (
        torch.load(tmp_path / f'rank{rank}.pt') for rank in range(2))
    assert first == second
    assert first[0.1] == dict(
        error=None, iteration=6, named=sorted(broken_files()))
    assert 'more than max_fraction=0.03' in first[0.03]['error']
    assert first[0.03]['iteration'] < 6
