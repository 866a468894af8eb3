"""Training from shards, stopped inside an epoch and resumed."""
import json

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from mmpretrain.registry import MODELS

from dmae_mm.datasets.shards.write_shards import write_shards
from tests.toys.models import ROOT
from tests.toys.folders import write_images

pytest.importorskip('webdataset', reason='the extra "shards" is not installed')


@MODELS.register_module()
class MeanColour(BaseModel):
    """Learns something from each image."""

    def __init__(self):
        super().__init__()
        self.guess = torch.nn.Parameter(torch.zeros(3, 8, 8))

    def forward(self, inputs, data_samples=None, mode='tensor'):
        images = torch.stack(list(inputs)) if isinstance(
            inputs, (list, tuple)) else inputs
        return dict(loss=(images / 255 - self.guess).square().mean())


@pytest.fixture(scope='module')
def shards(tmp_path_factory):
    """30 images in shards of a few."""
    root = tmp_path_factory.mktemp('training')
    write_images(root / 'images', *(f'{name}.png' for name in range(30)))
    folder = write_shards(
        str(root / 'images'), str(root / 'shards'), shard_bytes=20000)
    assert len(folder.shard_sizes) > 3
    return str(root / 'shards')


def pipeline():
    """That of the recipes, for images of 8 px."""
    transforms = Config.fromfile(
        ROOT / 'configs/_base_/datasets/image_folder.py').train_pipeline
    for transform in transforms:
        if 'scale' in transform:
            transform.scale = 8
    return transforms


def config(shards, work_dir, num_workers):
    return Config(
        dict(
            default_scope='mmpretrain',
            work_dir=str(work_dir),
            experiment_name=work_dir.name,
            model=dict(type='MeanColour'),
            train_dataloader=dict(
                batch_size=4,
                num_workers=num_workers,
                persistent_workers=num_workers > 0,
                sampler=dict(type='ShardSampler', window=10),
                collate_fn=dict(type='default_collate'),
                dataset=dict(
                    type='ShardDataset',
                    data_root=shards,
                    pipeline=pipeline())),
            optim_wrapper=dict(
                optimizer=dict(type='SGD', lr=1.0, momentum=0.9)),
            train_cfg=dict(type='ResumableTrainLoop', max_epochs=3),
            default_hooks=dict(
                checkpoint=dict(
                    type='CheckpointHook', by_epoch=False, interval=11)),
            custom_hooks=[dict(type='ExactResumeHook')],
            randomness=dict(seed=0),
            log_level='ERROR'))


def train(cfg, stop=None):
    """Train up to an iteration: names in each batch, final weights."""
    runner = Runner.from_cfg(cfg)
    batches = []

    class Stop(Exception):
        pass

    class Record(Hook):
        priority = 'LOWEST'

        def after_train_iter(self, runner, batch_idx, data_batch, outputs):
            batches.append((runner.epoch, batch_idx,
                            [sample.img_path.split('/')[-1]
                             for sample in data_batch['data_samples']]))
            if runner.iter + 1 == stop:
                raise Stop

    runner.register_hook(Record())
    if stop is None:
        runner.train()
    else:
        with pytest.raises(Stop):
            runner.train()
    return batches, runner.model.guess.detach().clone()


def test_a_run_resumed_inside_an_epoch_equals_the_whole(shards, tmp_path):
    """Stopped in the second of three epochs; with other workers as well."""
    whole, wanted = train(config(shards, tmp_path / 'whole', 0))
    assert len(whole) == 3 * 8  # the last batch of an epoch has 2 images
    for epoch in range(3):
        names = [name for e, _, batch in whole if e == epoch
                 for name in batch]
        assert sorted(names) == sorted(f'{number}.png'
                                       for number in range(30))
    assert len({tuple(batch) for _, _, batch in whole[::8]}) == 3

    cfg = config(shards, tmp_path / 'parts', 2)
    head, _ = train(cfg, stop=13)
    cfg = config(shards, tmp_path / 'parts', 0)
    cfg.resume = True
    tail, weights = train(cfg)
    assert head[:11] + tail == whole
    assert torch.equal(weights, wanted)


def test_the_config_differs_from_its_recipe_in_the_data_only():
    shards, folder = (
        Config.fromfile(ROOT / 'configs' / name).to_dict()
        for name in ('shards/vit-s_dmae-shards_in1k.py',
                     'dmae/vit-s_dmae_in1k.py'))
    dataset, sampler = (
        shards['train_dataloader'].pop(key) for key in ('dataset', 'sampler'))
    pipeline = folder['train_dataloader'].pop('dataset')['pipeline']
    folder['train_dataloader'].pop('sampler')
    assert json.dumps(shards) == json.dumps(folder)
    assert sampler == dict(type='ShardSampler')
    assert dataset == dict(
        type='ShardDataset',
        data_root='data/imagenet_shards/train',
        pipeline=pipeline)
