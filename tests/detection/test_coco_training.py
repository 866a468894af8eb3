"""The configs for COCO through the Runner, on toys and a CPU."""
import copy
import json

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import MODELS
from mmengine.runner import Runner
from mmpretrain.models.utils import resize_pos_embed

from tests.toys import needs_mmdet  # noqa: F401
from tests.toys.coco import SIZE
from tests.toys.detection_runs import (ARCH, FASTER_RCNN, MASK_RCNN,
                                       toy_config, train, train_long)

EPOCHS = {MASK_RCNN: 20, FASTER_RCNN: 8}


class Snapshot(Hook):
    """The backbone as training starts from it."""

    def before_train(self, runner) -> None:
        self.state = {
            name: tensor.clone()
            for name, tensor in runner.model.backbone.state_dict().items()
        }


@pytest.fixture(scope='module', params=[MASK_RCNN, FASTER_RCNN])
def trained(request, coco, pretrained, tmp_path_factory):
    """A run of a shipped config, and what its backbone started from."""
    name = request.param
    cfg = toy_config(name, coco, tmp_path_factory.mktemp('run'), pretrained)
    train_long(cfg, EPOCHS[name], 2e-3)
    cfg.default_hooks.checkpoint.interval = EPOCHS[name]
    runner = Runner.from_cfg(cfg)
    snapshot = Snapshot()
    runner.register_hook(snapshot)
    runner.train()
    return name, runner, snapshot.state


def logged(runner, name):
    history, _ = runner.message_hub.get_scalar(name).data
    return history


def test_every_weight_of_the_checkpoint_is_there(trained, student):
    name, _, start = trained
    given = student.backbone.state_dict()
    positions = resize_pos_embed(given.pop('pos_embed'), (4, 4), (8, 8))
    if name == MASK_RCNN:
        positions = positions[:, 1:].reshape(1, 8, 8, ARCH['embed_dims'])
    assert torch.equal(start['pos_embed'], positions)
    for tensor in start.keys() - {'pos_embed'}:
        assert torch.equal(start[tensor], given.pop(tensor)), tensor
    assert set(given) == ({'cls_token', 'ln1.weight', 'ln1.bias'}
                          if name == MASK_RCNN else set())


def test_the_loss_falls(trained):
    name, runner, _ = trained
    for loss in ['loss', 'loss_rpn_cls'] + ['loss_mask'] * (
            name == MASK_RCNN):
        history = logged(runner, f'train/{loss}')
        assert len(history) == 3 * EPOCHS[name]
        assert np.isfinite(history).all()
        assert history[-6:].mean() < 0.8 * history[:3].mean(), loss


def test_every_weight_of_the_backbone_is_trained(trained):
    _, runner, start = trained
    for name, tensor in runner.model.backbone.state_dict().items():
        assert not torch.equal(tensor, start[name]), name


def test_average_precision(trained):
    name, runner, _ = trained
    for kind in ['bbox'] + ['segm'] * (name == MASK_RCNN):
        precision, = logged(runner, f'val/coco/{kind}_mAP_50')
        # The light example has too few and too short epochs to find much.
        assert (0.2 if name == MASK_RCNN else 0) <= precision <= 1, kind


def overlap(box, shape):
    """Intersection over union of (x1, y1, x2, y2) and (x, y, w, h)."""
    x, y, w, h = shape
    sides = (min(box[2], x + w) - max(box[0], x),
             min(box[3], y + h) - max(box[1], y))
    common = max(sides[0], 0) * max(sides[1], 0)
    return common / (
        (box[2] - box[0]) * (box[3] - box[1]) + w * h - common)


def test_inference_draws_what_it_finds(trained, coco, tmp_path):
    from mmdet.apis import DetInferencer
    name, runner, _ = trained
    checkpoint = f'{runner.work_dir}/epoch_{EPOCHS[name]}.pth'
    inferencer = DetInferencer(
        copy.deepcopy(runner.cfg), checkpoint, show_progress=False)
    photo = coco / 'images' / f'{0:012}.jpg'
    results = inferencer(
        str(photo), out_dir=str(tmp_path), pred_score_thr=0.1)
    drawn = cv2.imread(str(tmp_path / 'vis' / photo.name))
    original = cv2.imread(str(photo))
    assert drawn.shape == original.shape
    found = results['predictions'][0]
    assert found['scores'] == sorted(found['scores'], reverse=True)
    assert ('masks' in found) == (name == MASK_RCNN)
    for box in found['bboxes']:  # in pixels of the photograph
        assert -1 <= box[0] < box[2] <= SIZE[1] + 1
        assert -1 <= box[1] < box[3] <= SIZE[0] + 1
    if name == MASK_RCNN:
        assert found['scores'][0] > 0.1
        annotations = json.loads((coco / 'shapes.json').read_text())
        assert any(
            overlap(box, shape['bbox']) > 0.3
            for shape in annotations['annotations'] if shape['image_id'] == 0
            for box, label in zip(found['bboxes'], found['labels'])
            if label == shape['category_id'] - 1)
        # More than JPEG's noise.
        assert np.abs(drawn.astype(int) - original).max() > 50


@pytest.fixture
def config(coco, pretrained, tmp_path, monkeypatch):
    """Makes the toy version of a config; two epochs of three iterations."""
    # The Runner writes its config down, which takes as long as ten iterations.
    monkeypatch.setattr(Config, 'pretty_text', '')

    def make(name=MASK_RCNN, work_dir='run'):
        cfg = toy_config(name, coco, tmp_path / work_dir, pretrained)
        cfg.train_cfg.update(max_epochs=2, val_interval=10)
        return cfg

    return make


def test_a_resumed_run_takes_the_same_steps(config, tmp_path):
    train(config())
    cfg = config(work_dir='resumed')
    cfg.resume, cfg.load_from = True, str(tmp_path / 'run' / 'epoch_1.pth')
    runner = train(cfg)
    assert len(logged(runner, 'train/loss')) == 3 + 3
    whole, resumed = (
        torch.load(tmp_path / name / 'epoch_2.pth', weights_only=False)
        for name in ('run', 'resumed'))
    for name, tensor in whole['state_dict'].items():
        assert torch.equal(tensor, resumed['state_dict'][name]), name
    for index, state in whole['optimizer']['state'].items():
        assert torch.equal(state['exp_avg'],
                           resumed['optimizer']['state'][index]['exp_avg'])


@pytest.mark.parametrize('name', [MASK_RCNN, FASTER_RCNN])
def test_every_parameter_takes_part(name, coco, tmp_path):
    """So DistributedDataParallel needs no find_unused_parameters."""
    cfg = toy_config(name, coco, tmp_path, None)
    model = MODELS.build(cfg.model)
    loader = Runner.build_dataloader(cfg.train_dataloader, seed=0)
    data = model.data_preprocessor(next(iter(loader)), training=True)
    # Images of 96 x 128, padded as each config says.
    assert data['inputs'].shape[2:] == ((128, 128) if name == MASK_RCNN else
                                        (96, 128))
    loss, _ = model.parse_losses(model(**data, mode='loss'))
    loss.backward()
    unused = [
        name for name, parameter in model.named_parameters()
        if parameter.requires_grad and parameter.grad is None
    ]
    assert unused == []


@pytest.mark.parametrize('name, change, error, message', [
    (MASK_RCNN, dict(prefix='encoder.'), ValueError,
     "WindowedViT. Under the prefix 'encoder.'.*0 blocks instead of 4"),
    (MASK_RCNN, dict(arch=dict(ARCH, num_layers=5)), ValueError,
     '4 blocks instead of 5; layers.4.ln1.weight is missing'),
    (MASK_RCNN, dict(arch=dict(ARCH, embed_dims=48)), ValueError,
     r'pos_embed has shape \(1, 17, 32\) instead of'),
    (MASK_RCNN, dict(checkpoint='PATH_OF_THE_PRETRAINED_CHECKPOINT'),
     FileNotFoundError, 'model.backbone.init_cfg.checkpoint: .*PATH_OF_THE_'),
    (FASTER_RCNN, dict(prefix=None), ValueError,
     "VisionTransformer. Under the prefix ''"),
])
def test_what_is_not_the_backbones_stops_the_run(config, name, change, error,
                                                 message):
    cfg = config(name)
    if 'arch' in change:
        cfg.model.backbone.update(change)
        cfg.model.neck.in_channels = change['arch']['embed_dims']
    else:
        cfg.model.backbone.init_cfg.update(change)
    runner = Runner.from_cfg(cfg)
    with pytest.raises(error, match=f'(?s){message}'):
        runner.train()
    assert runner.iter == 0


def test_a_neck_of_another_width_says_so(config):
    cfg = config()
    cfg.model.neck.in_channels = 64
    runner = Runner.from_cfg(cfg)
    with pytest.raises(ValueError, match=r'instead of \(B, 64, H, W\)'):
        runner.train()
