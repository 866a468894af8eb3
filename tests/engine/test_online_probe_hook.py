"""The online probe: its numbers are right, and it changes nothing."""
import copy
import json
import os
import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from mmengine.config import Config
from mmengine.runner import Runner
from mmpretrain.models.selfsup import MAEViT
from mmpretrain.registry import HOOKS

from dmae_mm.evaluation import FeatureModel, extract_features, knn_accuracy
from dmae_mm.evaluation.images import (EvaluationPipeline, batches,
                                       labelled_images)
from dmae_mm.models.teachers import MMPretrainTeacher
from tests.toys.folders import write_classes, write_images
from tests.toys.runs import config, free_port, run


@pytest.fixture(scope='module')
def folders(tmp_path_factory) -> Path:
    """12 training and 15 test images of three classes, and 8 photos."""
    root = tmp_path_factory.mktemp('labelled')
    write_classes(root / 'train', 3, 4, seed=1)
    write_classes(root / 'test', 3, 5, seed=2)
    write_images(root / 'photos', *(f'{i}.png' for i in range(8)))
    return root


def probed(folders, work_dir, epochs=3, **options) -> Config:
    """A run with drop path whose student is probed every second epoch."""
    cfg = config(str(folders / 'photos'), work_dir, epochs)
    cfg.model.backbone.drop_path_rate = 0.2
    cfg.custom_hooks.append(
        dict(
            dict(
                type='OnlineProbeHook',
                train_root=str(folders / 'train'),
                test_root=str(folders / 'test'),
                interval=2,
                k=3), **options))
    return cfg


def without(cfg: Config, work_dir) -> Config:
    cfg = copy.deepcopy(cfg)
    cfg.work_dir = str(work_dir)
    cfg.custom_hooks = [
        hook for hook in cfg.custom_hooks
        if hook['type'] != 'OnlineProbeHook'
    ]
    return cfg


def probes_in(work_dir) -> dict:
    """Epochs and accuracies in the visualizer's file."""
    found = {}
    for path in sorted(Path(work_dir).glob('*/vis_data/scalars.json')):
        for line in path.read_text().splitlines():
            scalars = json.loads(line)
            if 'probe/knn' in scalars:
                found[scalars['step']] = scalars['probe/knn']
    return found


def accuracy_of(cfg_file, checkpoint, folders, k=3, train_list=None,
                **options) -> float:
    model = FeatureModel(str(cfg_file), str(checkpoint))
    return knn_accuracy(*(extract_features(
        model,
        batches(
            labelled_images(
                str(folders / split), EvaluationPipeline(32, **options),
                list_file)))
        for split, list_file in (('train', train_list), ('test', None))),
        num_neighbors=k)


@pytest.mark.parametrize('seeded, num_workers', [(True, 0), (False, 1)])
def test_the_watched_run_is_the_same_bit_for_bit(folders, tmp_path, seeded,
                                                 num_workers):
    """Also where no hook seeds anew before each epoch."""
    cfg = probed(folders, tmp_path / 'watched', num_workers=num_workers)
    if not seeded:
        cfg.custom_hooks = [
            hook for hook in cfg.custom_hooks
            if hook['type'] != 'ExactResumeHook'
        ]
    watched, losses = run(cfg)
    states = [random.getstate(), np.random.get_state()[1].tolist(),
              torch.get_rng_state().tolist()]
    plain, wanted = run(without(cfg, tmp_path / 'plain'))
    assert states == [random.getstate(), np.random.get_state()[1].tolist(),
                      torch.get_rng_state().tolist()]
    assert len(losses) == 6 and losses == wanted
    for name, tensor in plain.model.state_dict().items():
        assert torch.equal(tensor, watched.model.state_dict()[name]), name
    for part in ('exp_avg', 'exp_avg_sq'):
        for ours, theirs in zip(
                watched.optim_wrapper.optimizer.state.values(),
                plain.optim_wrapper.optimizer.state.values(),
                strict=True):
            assert torch.equal(ours[part], theirs[part])
    ours, theirs = ({
        name: buffer.data[0].tolist()
        for name, buffer in runner.message_hub.log_scalars.items()
        if 'time' not in name
    } for runner in (watched, plain))
    assert len(ours.pop('probe/knn')) == 2
    assert ours == theirs
    assert all(module.training for module in watched.model.modules())


def test_accuracies_are_those_of_the_checkpoints(folders, tmp_path):
    """Every second epoch and after the last, in log and visualizer."""
    cfg = probed(folders, tmp_path)
    runner, _ = run(cfg, log_level='INFO')
    cfg.dump(tmp_path / 'config.py')
    wanted = {
        epoch: accuracy_of(tmp_path / 'config.py',
                           tmp_path / f'epoch_{epoch}.pth', folders)
        for epoch in (2, 3)
    }
    assert 0 < wanted[3] < 100
    assert probes_in(tmp_path) == wanted
    scalars = runner.message_hub.get_scalar('probe/knn')
    assert scalars.data[0].tolist() == [wanted[2], wanted[3]]
    log = next(tmp_path.glob('*/*.log')).read_text()
    for epoch in (2, 3):
        assert (f'Epoch(probe) [{epoch}]  probe/knn: {wanted[epoch]:.2f}'
                in log)
    assert 'Epoch(probe) [1]' not in log


def test_list_crop_and_batches(folders, tmp_path, monkeypatch):
    train_list = tmp_path / 'list.txt'
    train_list.write_text(''.join(
        f'class{label}/{index}.png {label}\n' for label in range(3)
        for index in range(2)))
    options = dict(train_list=str(train_list), crop_pct=0.6)
    sizes, forward = [], MAEViT.forward

    def counted(self, x, mask=True):
        if mask is None and self.embed_dims == 24:  # the student
            sizes.append(len(x))
        return forward(self, x, mask)

    monkeypatch.setattr(MAEViT, 'forward', counted)
    cfg = probed(folders, tmp_path, epochs=1, batch_size=4, **options)
    run(cfg)
    assert sizes == [4, 2, 4, 4, 4, 3]
    cfg.dump(tmp_path / 'config.py')
    assert probes_in(tmp_path) == {
        1:
        accuracy_of(tmp_path / 'config.py', tmp_path / 'epoch_1.pth', folders,
                    **options)
    }


def test_resuming_and_averaging(folders, tmp_path, monkeypatch):
    """Probed are the trained weights, not their average."""
    probed_weights = []

    def recorded(model, *args):
        probed_weights.append(model.backbone.ln1.weight.clone())
        return extract_features(model, *args)

    monkeypatch.setattr(
        'dmae_mm.engine.hooks.online_probe_hook.extract_features', recorded)
    cfg = probed(folders, tmp_path, epochs=2)
    cfg.custom_hooks.append(
        dict(
            type='EMAHook', ema_type='ExponentialMovingAverage', momentum=0.1))
    run(cfg)
    run(cfg, resume=True, train_cfg=dict(max_epochs=4))
    assert probes_in(tmp_path).keys() == {2, 4}
    for epoch, weight in zip((2, 4), probed_weights[::2], strict=True):
        checkpoint = torch.load(
            tmp_path / f'epoch_{epoch}.pth', weights_only=False)
        # With an EMAHook, mmengine stores the average under `state_dict`.
        trained = checkpoint['ema_state_dict']['module.backbone.ln1.weight']
        averaged = checkpoint['state_dict']['backbone.ln1.weight']
        assert torch.equal(weight, trained)
        assert not torch.equal(weight, averaged)


def test_the_teacher_is_not_run(folders, tmp_path, monkeypatch):
    """A forward pass a step, and no other."""
    passes = []
    forward = MMPretrainTeacher.forward
    monkeypatch.setattr(
        MMPretrainTeacher, 'forward',
        lambda *args, **kwargs: passes.append(1) or forward(*args, **kwargs))
    _, losses = run(probed(folders, tmp_path, interval=1))
    assert len(passes) == len(losses) == 6
    assert len(probes_in(tmp_path)) == 3


def _probe_on_rank(rank, folders, work_dir, port):
    torch.set_num_threads(1)
    dist.init_process_group(
        'gloo', f'tcp://127.0.0.1:{port}', rank=rank, world_size=2)
    os.environ['LOCAL_RANK'] = '0'
    cfg = probed(Path(folders), work_dir, epochs=1)
    cfg.launcher = 'pytorch'
    cfg.model_wrapper_cfg = dict(
        type='MMDistributedDataParallel',
        device_ids=None,
        broadcast_buffers=False,
        find_unused_parameters=False)
    runner, _ = run(cfg)
    hub = runner.message_hub
    (Path(work_dir) / f'rank{rank}').write_text(
        str(hub.get_scalar('probe/knn').current()))
    if rank == 0:
        cfg.dump(Path(work_dir) / 'config.py')
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_find_what_one_finds(folders, tmp_path):
    mp.spawn(
        _probe_on_rank, (str(folders), str(tmp_path), free_port()), nprocs=2)
    wanted = accuracy_of(tmp_path / 'config.py', tmp_path / 'epoch_1.pth',
                         folders)
    # 12 images are six each, and 15 are eight and seven.
    for rank in range(2):
        assert float((tmp_path / f'rank{rank}').read_text()) == wanted
    assert probes_in(tmp_path) == {1: wanted}


def test_it_is_written_for_tensorboard(folders, tmp_path):
    pytest.importorskip('tensorboard')
    from tensorboard.backend.event_processing.event_accumulator import (
        EventAccumulator)
    cfg = probed(folders, tmp_path, epochs=2)
    cfg.visualizer = dict(
        type='UniversalVisualizer',
        vis_backends=[
            dict(type='LocalVisBackend'),
            dict(type='TensorboardVisBackend')
        ])
    run(cfg)
    events = EventAccumulator(str(next(tmp_path.glob('*/vis_data'))))
    events.Reload()
    scalar, = events.Scalars('probe/knn')
    assert scalar.step == 2
    assert scalar.value == pytest.approx(probes_in(tmp_path)[2])


@pytest.mark.parametrize('folder, options, error, message', [
    ('gone', {}, FileNotFoundError, 'There is no folder .*gone'),
    ('photos', {}, ValueError, 'have no labels: .* 0 sub-folders and 8 '),
    ('test', dict(k=13), ValueError, 'k=13 nearest .* 12 training images'),
    ('other', {}, ValueError, r"class folders differ.*\['class3'\]"),
    ('junk', {}, ValueError, '1 of 12 files cannot be decoded.*class2/3.png'),
    ('test', dict(crop_pct=2), ValueError, 'crop_pct=2 is not above 0'),
])
def test_what_cannot_work_stops_before_training(folder, options, error,
                                                message, folders, tmp_path):
    write_classes(tmp_path / 'other', 4, 4, seed=1)
    write_classes(tmp_path / 'junk', 3, 4, seed=1)
    # Cut off: it begins as an image does.
    broken = tmp_path / 'junk' / 'class2' / '3.png'
    broken.write_bytes(broken.read_bytes()[:-100])
    root = (tmp_path if folder in ('other', 'junk') else folders) / folder
    runner = Runner.from_cfg(
        probed(folders, tmp_path, test_root=str(root), **options))
    steps = []
    runner.model.register_forward_hook(lambda *_: steps.append(1))
    with pytest.raises(error, match=message):
        runner.train()
    assert steps == [] and not list(tmp_path.glob('*.pth'))


def test_iterations_are_not_epochs(folders, tmp_path):
    cfg = probed(folders, tmp_path)
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=2)
    with pytest.raises(ValueError, match='counts epochs.*EpochBasedTrainLoop'):
        Runner.from_cfg(cfg).train()


@pytest.mark.parametrize('options, error, message', [
    (dict(interval=0), ValueError, 'interval=0 is not an int of at least 1'),
    (dict(k=2.5), ValueError, 'k=2.5 is not an int of at least 1'),
    (dict(batch_size='8'), ValueError, "batch_size='8' is not an int"),
    (dict(num_workers=-1), ValueError, 'num_workers=-1 .* at least 0'),
    (dict(intervall=5), TypeError, 'no option intervall=5.*: interval, '),
])
def test_options(options, error, message):
    with pytest.raises(error, match=message):
        HOOKS.build(
            dict(
                type='OnlineProbeHook', train_root='', test_root='',
                **options))


def test_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, 'sklearn', None)
    with pytest.raises(ImportError, match='pip install scikit-learn'):
        HOOKS.build(
            dict(type='OnlineProbeHook', train_root='', test_root=''))


def test_it_is_an_option_of_the_command_line(folders, tmp_path):
    """As written in the hook's documentation."""
    cfg = without(probed(folders, tmp_path), tmp_path)
    cfg.merge_from_dict({
        'default_hooks.probe.type': 'OnlineProbeHook',
        'default_hooks.probe.train_root': str(folders / 'train'),
        'default_hooks.probe.test_root': str(folders / 'test'),
    })
    run(cfg, train_cfg=dict(max_epochs=1))
    assert probes_in(tmp_path).keys() == {1}
