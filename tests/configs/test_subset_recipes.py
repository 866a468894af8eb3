"""Fine-tuning with few labels: what differs, and one epoch of it."""
import runpy
from pathlib import Path

import pytest
import torch
from mmengine.runner import Runner
from mmpretrain.registry import MODELS

from tests.toys.models import ROOT
from tests.toys.folders import write_classes

from tests.toys.recipes import ROWS, build, differences, load
from tests.toys.config_runs import shrink_classifier, shrink_run

RECIPES = [(size, percent) for size in 'tsb' for percent in (1, 10)]


def name_of(size: str, percent: int) -> str:
    return f'vit-{size}_finetune-{percent}pct'


@pytest.mark.parametrize('size, percent', RECIPES)
def test_what_differs_from_all_labels(size, percent):
    name = name_of(size, percent)
    cfg, full = load(name), load(f'vit-{size}_finetune')
    dataset = cfg.train_dataloader.dataset.to_dict()
    assert dataset == dict(
        type='ImageSubset',
        data_root='data/imagenet',
        data_prefix='train',
        ann_file=f'train_{percent}pct.txt',
        pipeline=full.train_dataloader.dataset.pipeline)
    schedule = [
        'auto_scale_lr.base_batch_size', 'optim_wrapper.optimizer.lr',
        'train_cfg.val_interval', 'train_dataloader.batch_size'
    ] * (percent == 1)
    assert differences(cfg.to_dict(), full.to_dict()) == sorted([
        *schedule, *(f'train_dataloader.dataset.{option}' for option in (
            '_scope_', 'ann_file', 'data_prefix', 'split', 'type'))
    ])
    # The learning rate is in proportion to the images of a step, on 8 GPUs.
    images = cfg.auto_scale_lr.base_batch_size
    assert images == 8 * cfg.train_dataloader.batch_size
    assert cfg.optim_wrapper.optimizer.lr == pytest.approx(5e-4 * images / 256)
    assert cfg.train_cfg.max_epochs % cfg.train_cfg.val_interval == 0
    build(name)
    # The file of ViT-S says how its list is made.
    assert (f'data/imagenet/train_{percent}pct.txt --percent {percent}\n'
            in Path(ROWS[name_of('s', percent)].config).read_text())


def test_an_epoch_on_a_list(tmp_path):
    """Two of six images of each of five classes, validated on all."""
    images = write_classes(tmp_path / 'train', 5, 6, seed=0)
    script = runpy.run_path(str(ROOT / 'tools' / 'make_subset.py'))
    script['main'](
        [images, str(tmp_path / 'train_1pct.txt'), '--percent', '33'])
    cfg = ROWS[name_of('s', 1)].read()
    dataset = cfg.train_dataloader.dataset.to_dict()
    shrink_classifier(cfg)
    shrink_run(cfg, Path(images), tmp_path / 'run')
    cfg.train_dataloader.dataset = dict(
        dataset,
        data_root=str(tmp_path),
        pipeline=cfg.train_dataloader.dataset.pipeline)
    cfg.train_cfg.max_epochs = 1
    cfg.train_cfg.val_interval = 1
    torch.manual_seed(0)
    backbone = MODELS.build(cfg.model.backbone)
    torch.save({
        f'backbone.{name}': tensor
        for name, tensor in backbone.state_dict().items()
    }, tmp_path / 'student.pth')
    cfg.model.backbone.init_cfg.checkpoint = str(tmp_path / 'student.pth')
    runner = Runner.from_cfg(cfg)
    runner.train()
    assert len(runner.train_dataloader.dataset) == 10
    assert runner.iter == 5
    assert runner.train_dataloader.dataset.CLASSES == tuple(
        f'class{label}' for label in range(5))
    # Labels agree with those of the folders, which are validated.
    assert (runner.val_dataloader.dataset.CLASSES ==
            runner.train_dataloader.dataset.CLASSES)
    accuracy = runner.message_hub.get_scalar('val/accuracy/top5').current()
    assert accuracy == 100  # of five classes


def test_without_the_list_training_does_not_start(tmp_path):
    write_classes(tmp_path / 'train', 2, 1, seed=0)
    cfg = ROWS[name_of('t', 1)].read()
    cfg.train_dataloader.dataset.data_root = str(tmp_path)
    with pytest.raises(FileNotFoundError,
                       match='train_1pct.txt.*tools/make_subset.py'):
        Runner.build_dataloader(cfg.train_dataloader)
