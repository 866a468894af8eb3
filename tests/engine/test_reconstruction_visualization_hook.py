"""Pictures during training: right, on time, and nothing else changes."""
import copy
import os
import random
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn as nn
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS, MODELS

from dmae_mm.engine.hooks import reconstruction_visualization_hook
from dmae_mm.evaluation.images import EvaluationPipeline
from dmae_mm.evaluation.pictures import draw_reconstructions
from dmae_mm.evaluation.reconstruction import reconstruct
from dmae_mm.models import FeatureProjectionNeck
from tests.toys.odd_files import broken_files
from tests.toys import sharded_runs as sharded
from tests.toys.runs import config, free_port, run
from tests.toys.models import HIVIT_STUDENT, LIGHT


@MODELS.register_module()
class NormedProjectionNeck(FeatureProjectionNeck):
    """With what behaves differently in training: running means, dropout."""

    def __init__(self, **options) -> None:
        super().__init__(**options)
        self.norm = nn.BatchNorm1d(32)

    def forward(self, features):
        return tuple(
            nn.functional.dropout(
                self.norm(feature.transpose(1, 2)).transpose(1, 2), 0.1,
                self.training) for feature in super().forward(features))


def watched(photos, work_dir, epochs=2, **options) -> Config:  # noqa: F811
    """4 steps an epoch, with drop path, without hooks that seed anew."""
    cfg = config(photos, work_dir, epochs)
    cfg.model.backbone.drop_path_rate = 0.2
    cfg.custom_hooks = [
        dict(
            dict(
                type='ReconstructionVisualizationHook',
                num_images=2,
                interval=3), **options)
    ]
    return cfg


def pictures(work_dir) -> dict:
    """Names and pixels, RGB."""
    return {
        path.name: cv2.imread(str(path))[..., ::-1]
        for path in sorted(Path(work_dir).glob('*/vis_data/vis_image/*'))
    }


def random_states() -> list:
    return [
        random.getstate(),
        np.random.get_state()[1].tolist(),
        torch.get_rng_state().tolist()
    ]


@pytest.mark.parametrize('changes, num_maps, steps', [
    (dict(distill_neck=dict(type='NormedProjectionNeck')), 1, (0, 3, 6, 8)),
    (dict(teacher=None, aligned_layers=[]), 0, (0, 3, 4)),
    (dict(neck=LIGHT), 1, (0, 3, 4)),
    (dict(backbone=HIVIT_STUDENT, aligned_layers=[(0.75, 3), (2, 1)]), 2,
     (0, 3, 4)),
], ids=['dmae', 'mae', 'light', 'hivit'])
def test_the_watched_run_is_the_same_bit_for_bit(
        changes, num_maps, steps, photos, tmp_path):  # noqa: F811
    cfg = watched(photos, tmp_path / 'watched', epochs=steps[-1] // 4)
    for part in changes:
        cfg.model.pop(part, None)  # or it would be merged
    cfg.model.update(copy.deepcopy(changes))
    if 'distill_neck' in changes:
        cfg.custom_hooks.append(
            dict(type='EMAHook', ema_type='ExponentialMovingAverage'))
    runner, losses = run(cfg)
    states = random_states()
    plain_cfg = copy.deepcopy(cfg)
    plain_cfg.work_dir = str(tmp_path / 'plain')
    plain_cfg.custom_hooks = cfg.custom_hooks[1:]
    plain, wanted = run(plain_cfg)
    assert states == random_states()
    assert len(losses) == steps[-1] and losses == wanted
    for name, tensor in plain.model.state_dict().items():
        assert torch.equal(tensor, runner.model.state_dict()[name]), name
    for ours, theirs in zip(
            runner.optim_wrapper.optimizer.state.values(),
            plain.optim_wrapper.optimizer.state.values(),
            strict=True):
        assert torch.equal(ours['exp_avg'], theirs['exp_avg'])
        assert torch.equal(ours['exp_avg_sq'], theirs['exp_avg_sq'])
    assert all(module.training for module in runner.model.modules())

    # Before the first step, every third, and after the last.
    found = pictures(tmp_path / 'watched')
    assert list(found) == [
        f'reconstruction_{index}_{step}.png' for index in range(2)
        for step in steps
    ]
    assert not pictures(tmp_path / 'plain')
    # The last is drawn from the weights that are trained, not averaged.
    paths = sorted(str(path) for path in Path(photos).iterdir())
    paths = [paths[0], paths[8]]  # spread over 16
    inputs = EvaluationPipeline(32).read(paths)['inputs']
    final = reconstruct(runner.model, inputs)
    for index, one in enumerate(final):
        assert len(one.similarity) == num_maps
        name = f'{Path(paths[index]).name}, step {steps[-1]}'
        assert np.array_equal(found[f'reconstruction_{index}_{steps[-1]}.png'],
                              draw_reconstructions([[one]], name))
    assert not np.array_equal(found['reconstruction_0_0.png'],
                              found['reconstruction_0_3.png'])


def test_iterations_folders_lists_and_resuming(photos,  # noqa: F811
                                               tmp_path):
    """Also with a loop that counts iterations."""
    cfg = watched(photos, tmp_path / 'a', images=photos, num_images=1)
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=4)
    cfg.default_hooks.checkpoint.update(by_epoch=False, interval=2)
    run(cfg)
    assert list(pictures(tmp_path / 'a')) == [
        f'reconstruction_0_{step}.png' for step in (0, 3, 4)
    ]
    images = [str(Path(photos) / name) for name in ('03.png', '05.png')]
    cfg.custom_hooks[0].images = images
    cfg.work_dir = str(tmp_path / 'b')
    run(cfg)
    cfg.train_cfg.max_iters = 7
    run(cfg, resume=True)
    found = pictures(tmp_path / 'b')
    assert sorted(found) == sorted(
        f'reconstruction_{index}_{step}.png' for index in range(2)
        for step in (0, 3, 4, 6, 7))


def _watch_on_rank(rank, cfg, port):
    torch.set_num_threads(1)
    dist.init_process_group(
        'gloo', f'tcp://127.0.0.1:{port}', rank=rank, world_size=2)
    os.environ['LOCAL_RANK'] = '0'
    weights, calls = [], []
    # In a process of its own, which ends.
    reconstruction_visualization_hook.reconstruct = lambda *args: (
        calls.append(1) or reconstruct(*args))
    cfg.overwrite = True  # the second run, the first one's
    for hooks in (cfg.custom_hooks, []):
        cfg.custom_hooks = hooks
        runner, _ = run(cfg)
        weights.append(runner.model.state_dict())
    for name, tensor in weights[0].items():
        assert torch.equal(tensor, weights[1][name]), name
    assert len(calls) == (3 if rank == 0 else 0)
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes(photos, tmp_path):  # noqa: F811
    """One draws, both train on, to the same weights as unwatched."""
    cfg = watched(photos, tmp_path, epochs=1, interval=1)
    # It asks all processes about a step, and a picture is none.
    cfg.default_hooks.runtime_info = dict(type='FiniteLossHook')
    cfg.launcher = 'pytorch'
    cfg.model_wrapper_cfg = dict(
        type='MMDistributedDataParallel',
        device_ids=None,
        broadcast_buffers=False)
    mp.spawn(_watch_on_rank, (cfg, free_port()), nprocs=2)
    assert len(pictures(tmp_path)) == 2 * 3


def _watch_shards(rank, folder, work_dir, port):
    torch.set_num_threads(1)
    os.environ.update(
        MASTER_ADDR='127.0.0.1',
        MASTER_PORT=str(port),
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE='2')
    dist.init_process_group('gloo')
    weights = []
    for name in ('watched', 'plain'):
        cfg = sharded.config(f'{work_dir}/{name}', dict(shard_teacher=True))
        if name == 'watched':
            cfg.custom_hooks.append(
                dict(
                    type='ReconstructionVisualizationHook',
                    images=folder,
                    interval=1))
        runner, _ = sharded.train(cfg)
        weights.append([p.full_tensor() for p in runner.model.parameters()])
    assert all(map(torch.equal, *weights))
    dist.destroy_process_group()


@pytest.mark.slow
def test_parameters_in_shards(photos, tmp_path):  # noqa: F811
    """All processes compute, one draws, and nothing else changes."""
    mp.spawn(
        _watch_shards, (photos, str(tmp_path), free_port()), nprocs=2)
    assert len(pictures(tmp_path / 'watched')) == 4 * 5


def test_they_are_written_for_tensorboard(photos, tmp_path):  # noqa: F811
    pytest.importorskip('tensorboard')
    from tensorboard.backend.event_processing.event_accumulator import (
        EventAccumulator)
    cfg = watched(photos, tmp_path, epochs=1, num_images=1)
    cfg.visualizer = dict(
        type='UniversalVisualizer',
        vis_backends=[
            dict(type='LocalVisBackend'),
            dict(type='TensorboardVisBackend')
        ])
    run(cfg)
    events = EventAccumulator(
        str(next(tmp_path.glob('*/vis_data'))), dict(images=0))
    events.Reload()
    images = events.Images('reconstruction_0')
    assert [image.step for image in images] == [0, 3, 4]
    pixels = cv2.imdecode(
        np.frombuffer(images[-1].encoded_image_string, np.uint8),
        cv2.IMREAD_COLOR)
    assert np.array_equal(pixels[..., ::-1],
                          pictures(tmp_path)['reconstruction_0_4.png'])


class Packed(BaseDataset):
    """Like shards: it names its images, and has what is in their files."""

    def load_data_list(self) -> list:
        return [dict(img_path=path) for path in self.data_root]

    def prepare_data(self, index):
        info = self.get_data_info(index)
        content = Path(info['img_path']).read_bytes()
        return self.pipeline(
            dict(info, img_path=f'in.tar/{index}', img_bytes=content))


def test_images_of_shards(photos, tmp_path):  # noqa: F811
    cfg = watched(photos, tmp_path / 'files')
    paths = sorted(str(path) for path in Path(photos).iterdir())
    for name in ('files', 'packed'):
        cfg.work_dir = cfg.experiment_name = str(tmp_path / name)
        runner = Runner.from_cfg(cfg)
        if name == 'packed':
            dataset = Packed(data_root='', serialize_data=False,
                             lazy_init=True)
            dataset.data_root = paths
            dataset.full_init()
            runner.train_loop.dataloader = torch.utils.data.DataLoader(dataset)
        HOOKS.build(cfg.custom_hooks[0]).before_train(runner)
    files, packed = (pictures(tmp_path / name) for name in ('files', 'packed'))
    assert list(files) == ['reconstruction_0_0.png', 'reconstruction_1_0.png']
    for name, picture in files.items():
        assert np.array_equal(picture, packed[name])


@pytest.mark.parametrize('from_folder', [False, True])
def test_broken_images_are_passed_over(from_folder, photos,  # noqa: F811
                                       tmp_path, monkeypatch):
    """The next one is drawn, each skipped one is logged by its name."""
    folder = tmp_path / 'photos'
    shutil.copytree(photos, folder)
    jpeg = broken_files()['cut.jpg']
    for name, content in (('00.png', b''), ('01.png', jpeg), ('08.png', b'')):
        (folder / name).write_bytes(content)
    cfg = watched(photos if from_folder else str(folder), tmp_path / 'out')
    cfg.experiment_name = f'{tmp_path}'
    runner = Runner.from_cfg(cfg)
    said = []
    monkeypatch.setattr(runner.logger, 'warning', said.append)
    hook = HOOKS.build(
        dict(
            cfg.custom_hooks[0], images=str(folder) if from_folder else None))
    hook.before_train(runner)
    assert [Path(name).name for name in hook._names] == ['02.png', '09.png']
    assert len(pictures(tmp_path / 'out')) == 2
    assert len(said) == 3
    for line, name, reason in zip(
            said, ('00.png', '01.png', '08.png'),
        ('empty file', 'cut off, damaged', 'empty file')):
        assert f"'{folder / name}' cannot be decoded: {reason}" in line
    for path in folder.iterdir():
        path.write_bytes(b'')
    with pytest.raises(ValueError, match='no image that was tried can be '
                       "read. The last: .*15.png' .*: empty file. .* Or give"):
        hook.before_train(runner)


class Unnamed(torch.utils.data.Dataset):
    """Images that are no files."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return dict(inputs=torch.zeros(3, 32, 32), data_samples=None)


def test_what_cannot_work_stops_before_training(photos,  # noqa: F811
                                                tmp_path):
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'junk.png').write_text('not an image')
    cfg = watched(photos, tmp_path / 'out')
    cfg.experiment_name = str(tmp_path)
    runner = Runner.from_cfg(cfg)
    for images, error, message in (
        (str(tmp_path / 'gone'), FileNotFoundError, 'no folder .*gone'),
        (str(tmp_path / 'empty'), ValueError, 'no images .* under .*empty'),
        ([str(tmp_path / 'gone.png')], FileNotFoundError,
         'no image .*gone.png'),
        ([str(tmp_path / 'junk.png')], ValueError,
         'junk.png.* cannot be decoded: no image that Pillow or OpenCV'),
    ):
        hook = HOOKS.build(
            dict(type='ReconstructionVisualizationHook', images=images))
        with pytest.raises(error, match=message):
            hook.before_train(runner)
    hook = HOOKS.build(dict(type='ReconstructionVisualizationHook'))
    runner.train_loop.dataloader = torch.utils.data.DataLoader(Unnamed())
    with pytest.raises(ValueError, match='Unnamed, does not name .* images'):
        hook.before_train(runner)
    runner.model.head = nn.Linear(1, 1)
    with pytest.raises(ValueError, match='model.head is a Linear'):
        hook.before_train(runner)
    assert not pictures(tmp_path / 'out')


@pytest.mark.parametrize('options, error, message', [
    (dict(interval=0), ValueError, 'interval=0 is not an int of at least 1'),
    (dict(num_images=2.5), ValueError, 'num_images=2.5 is not an int'),
    (dict(seed=-1), ValueError, 'seed=-1 .* at least 0'),
    (dict(images=[]), ValueError, r'images=\[\] is neither a folder'),
    (dict(images=[1]), ValueError, r'images=\[1\] is neither a folder'),
    (dict(every=5), TypeError, 'no option every=5.*images, num_images'),
])
def test_options(options, error, message):
    with pytest.raises(error, match=message):
        HOOKS.build(dict(type='ReconstructionVisualizationHook', **options))


def test_it_is_an_option_of_the_command_line(photos, tmp_path):  # noqa: F811
    """As written in the hook's documentation."""
    cfg = watched(photos, tmp_path, epochs=1)
    cfg.custom_hooks = []
    cfg.merge_from_dict({
        'default_hooks.pictures.type': 'ReconstructionVisualizationHook',
        'default_hooks.pictures.interval': 500,
    })
    run(cfg)
    assert len(pictures(tmp_path)) == 4 * 2  # images, at start and end
