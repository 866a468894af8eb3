"""What the ImageNet configs do when they run, at toy size."""
import math
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain.registry import MODELS

from tests.toys.recipes import CONFIGS
from tests.toys.config_runs import (shrink_classifier, shrink_run,
                                    shrink_student)


class Record(Hook):
    """Keeps the weights at the start and the learning rate of each step."""

    def before_train_epoch(self, runner) -> None:
        if runner.epoch == 0:
            self.learning_rates = []
            self.num_steps = 0
            self.initial = {
                name: tensor.clone()
                for name, tensor in runner.model.state_dict().items()
            }
            runner.optim_wrapper.optimizer.register_step_post_hook(
                self.count_step)

    def count_step(self, *args) -> None:
        self.num_steps += 1

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        self.learning_rates.append(
            runner.optim_wrapper.optimizer.param_groups[-1]['lr'])


def train(cfg: Config) -> tuple:
    runner = Runner.from_cfg(cfg)
    record = Record()
    runner.register_hook(record)
    runner.train()
    return runner, record


@pytest.fixture(scope='module')
def image_folder(tmp_path_factory) -> Path:
    """Five images in five folders."""
    root = tmp_path_factory.mktemp('images')
    random = np.random.RandomState(0)
    for index in range(5):
        (root / str(index)).mkdir()
        pixels = random.randint(0, 256, (40, 48, 3)).astype(np.uint8)
        cv2.imwrite(str(root / str(index) / 'image.png'), pixels)
    return root


@pytest.fixture(scope='module')
def pretrained(image_folder, tmp_path_factory) -> tuple:
    """A toy run of a DMAE config, all 100 epochs of 3 batches."""
    cfg = Config.fromfile(CONFIGS / 'dmae/vit-s_dmae_in1k.py')
    shrink_student(cfg)
    shrink_run(cfg, image_folder, tmp_path_factory.mktemp('pretrain'))
    return train(cfg)


def test_learning_rate_schedule(pretrained):
    _, record = pretrained
    rates = record.learning_rates
    # Five images make three batches of at most two: nothing is dropped.
    assert len(rates) == 100 * 3
    assert rates[0] == pytest.approx(2.4e-3 * 1e-4)
    assert rates[59] == pytest.approx(2.4e-3)  # last of 20 epochs
    assert rates[60] == pytest.approx(2.4e-3)
    assert rates[60 + 120] == pytest.approx(1.2e-3)  # half of the cosine
    assert rates[299] == pytest.approx(1.2e-3 *
                                       (1 - math.cos(math.pi / 240)))  # 1e-7
    assert rates == sorted(rates[:60]) + sorted(rates[60:], reverse=True)
    assert record.num_steps == 300 // 4


def test_pretraining_writes_a_checkpoint(pretrained):
    runner, _ = pretrained
    checkpoint = torch.load(Path(runner.work_dir) / 'epoch_100.pth',
                            weights_only=False)
    assert checkpoint['meta']['epoch'] == 100
    assert checkpoint['meta']['teacher']['aligned_blocks'] == [3]
    assert not [name for name in checkpoint['state_dict'] if 'teacher' in name]


@pytest.mark.parametrize('task, num_unloaded', [('finetune', 2),
                                                ('linear', 0)])
def test_benchmark_starts_from_the_pretrained_backbone(task, num_unloaded,
                                                       pretrained,
                                                       image_folder, tmp_path):
    runner, _ = pretrained
    cfg = Config.fromfile(CONFIGS / f'benchmarks/vit-s_{task}_in1k.py')
    shrink_classifier(cfg)
    shrink_run(cfg, image_folder, tmp_path)
    cfg.merge_from_dict({
        'model.backbone.init_cfg.checkpoint':
        f'{runner.work_dir}/epoch_100.pth',
        'train_cfg.max_epochs': 1
    })
    classifier, record = train(cfg)

    source = runner.model.backbone.state_dict()
    backbone = {
        name[len('backbone.'):]: tensor
        for name, tensor in record.initial.items()
        if name.startswith('backbone.')
    }
    unloaded = [name for name in backbone if name not in source]
    # Only the norm behind average pooling is new in fine-tuning.
    assert unloaded == ['ln2.weight', 'ln2.bias'][:num_unloaded]
    assert len(backbone) == 4 * 12 + 4 + 2
    for name in backbone.keys() - set(unloaded):
        assert torch.equal(backbone[name], source[name]), name

    moved = {
        name
        for name, parameter in classifier.model.named_parameters()
        if not torch.equal(parameter, record.initial[name])
    }
    if task == 'linear':
        assert moved == {'head.layers.head.weight', 'head.layers.head.bias'}
        assert len(record.learning_rates) == 2  # the batch of one is dropped
        assert record.learning_rates[0] == pytest.approx(6.4 * 1e-4)
    else:
        assert len(moved) == len(record.initial)
        assert len(record.learning_rates) == 3
        assert record.learning_rates[0] == pytest.approx(2e-3 * 1e-4)
    accuracy = classifier.message_hub.get_scalar('val/accuracy/top5').current()
    assert accuracy == 100  # of five classes


@pytest.mark.parametrize('task', ['finetune', 'linear'])
@pytest.mark.parametrize('checkpoint', [None, ''])
def test_benchmark_without_checkpoint_stops(task, checkpoint):
    cfg = Config.fromfile(CONFIGS / f'benchmarks/vit-s_{task}_in1k.py')
    shrink_classifier(cfg)
    if checkpoint is not None:
        cfg.model.backbone.init_cfg.checkpoint = checkpoint
    model = MODELS.build(cfg.model)
    wanted = ('PATH_OF_THE_PRETRAINED_CHECKPOINT'
              if checkpoint is None else '')
    with pytest.raises(
            FileNotFoundError,
            match=f'^The checkpoint {wanted} does not exist'):
        model.init_weights()
