"""Students that are no vision transformers in mmdet's own configs."""
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner import Runner

from tests.toys import needs_mmdet  # noqa: F401
from dmae_mm.weights.check_transfer import check_transfer
from tests.toys.detection_runs import (CONFIGS, IMAGE_SIZE, STOCK_FASTER_RCNN,
                                       STOCK_RTMDET, toy_config)
from tests.toys.hosted_students import (stock, write_student)
from tests.toys.recipes import differences

FASTER_RCNN = stock('mmdet', 'faster_rcnn', 'faster-rcnn_r50_fpn_1x_coco.py')
RTMDET = stock('mmdet', 'rtmdet', 'rtmdet_tiny_8xb32-300e_coco.py')
SWIN = stock('mmdet', 'swin', 'mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py')
CONVNEXT = stock('mmdet', 'convnext',
                 'mask-rcnn_convnext-t-p4-w7_fpn_amp-ms-crop-3x_coco.py')
EFFICIENTNET = stock('mmdet', 'efficientnet',
                     'retinanet_effb3_fpn_8xb4-crop896-1x_coco.py')
PREFIX = {'model.backbone.init_cfg.prefix': 'backbone.'}
OWN_NAMES = {'model.backbone.convert_weights': False}
STAGES = dict(out_indices=[0, 1, 2, 3])
RESNET = dict(type='ResNet', depth=50, **STAGES)
CSPNEXT = dict(
    type='mmdet.CSPNeXt',
    deepen_factor=0.167,
    widen_factor=0.375,
    norm_cfg=dict(type='BN'))


def in_host(config, checkpoint, options):
    """The backbone of a config, loaded as by a runner, in eval mode."""
    cfg = Config.fromfile(config)
    cfg.merge_from_dict(options)
    cfg.model.backbone.init_cfg.checkpoint = str(checkpoint)
    with DefaultScope.overwrite_default_scope('mmdet'):
        backbone = MODELS.build(cfg.model.backbone)
        backbone.init_weights()
    backbone.train(False)
    return backbone


@pytest.mark.parametrize('config, options, backbone, number', [
    (FASTER_RCNN, PREFIX, RESNET, 318),
    (RTMDET, {}, CSPNEXT, 206),
    pytest.param(
        SWIN, OWN_NAMES, dict(type='SwinTransformer', arch='tiny', **STAGES),
        189, marks=pytest.mark.slow),
    pytest.param(
        CONVNEXT, {}, dict(
            type='ConvNeXt', arch='tiny', gap_before_final_norm=False,
            **STAGES), 186, marks=pytest.mark.slow),
    # It is built without its last layer, which detectors do not take.
    pytest.param(
        EFFICIENTNET, {}, dict(
            type='EfficientNet', arch='b3', out_indices=[3, 4, 5]), 566,
        marks=pytest.mark.slow),
], ids=['Faster R-CNN', 'RTMDet', 'Swin', 'ConvNeXt', 'EfficientNet'])
def test_all_arrives_and_computes_the_same(tmp_path, config, options, backbone,
                                           number):
    path = tmp_path / 'epoch_100.pth'
    student = write_student(path, backbone)
    lines, reason = check_transfer(config, str(path), options)
    assert reason == ''
    assert lines[-1] == f'All {number} backbone tensors arrived (0 resized).'
    host = in_host(config, path, options)
    assert type(host) is not type(student) or config in (RTMDET, CONVNEXT)
    images = torch.randn(
        1, 3, 256, 256, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        pairs = list(zip(student(images), host(images), strict=True))
    assert len(pairs) >= 3
    for wanted, found in pairs:
        assert wanted.isfinite().all() and wanted.std() > 0
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


# At toy size, for what is refused.
NARROW = dict(RESNET, base_channels=8, stem_channels=8)
TOY_RESNET = {**PREFIX, 'model.backbone.base_channels': 8}
TOY_SWIN = dict(
    type='SwinTransformer',
    arch=dict(embed_dims=12, depths=[1] * 4, num_heads=[1, 2, 3, 4]))
IN_SWIN = {
    **{f'model.backbone.{name}': value
       for name, value in TOY_SWIN['arch'].items()}, **OWN_NAMES
}


@pytest.mark.parametrize('backbone, config, options, message', [
    (NARROW, FASTER_RCNN, {'model.backbone.base_channels': 8},
     "they fit under the prefix 'backbone.' (265 of 265). Give model."
     "backbone.init_cfg=dict(type='Pretrained', checkpoint=..., "
     "prefix='backbone.')."),
    (dict(NARROW, depth=34), FASTER_RCNN, TOY_RESNET,
     'layer1.0.conv3.weight is missing'),
    (dict(NARROW, depth=34), FASTER_RCNN, TOY_RESNET,
     "this one's in model.backbone: type='mmpretrain.ResNet', "
     'base_channels=8, depth=34, stem_channels=8.'),
    (dict(NARROW, depth=101), FASTER_RCNN, TOY_RESNET,
     'layer3.6.conv1.weight has no place in it'),
    (dict(NARROW, base_channels=16), FASTER_RCNN, TOY_RESNET,
     'layer1.0.conv1.weight has shape (16, 8, 1, 1) instead of (8, 8, 1, 1)'),
    (dict(NARROW, style='caffe'), FASTER_RCNN, TOY_RESNET,
     "The config in it says style='caffe', but the backbone has "
     "style='pytorch', which no shape shows."),
    (dict(NARROW, norm_cfg=dict(type='BN', eps=1e-3)), FASTER_RCNN, TOY_RESNET,
     'says norm_cfg.eps=0.001, but the backbone has norm_cfg.eps=1e-05'),
    (dict(type='MobileNetV2', widen_factor=.1), FASTER_RCNN, TOY_RESNET,
     'so it belongs to another kind of model. Give a checkpoint of this '
     "architecture, or this one's in model.backbone: "
     "type='mmpretrain.MobileNetV2', widen_factor=0.1."),
    ({**CSPNEXT, 'norm_cfg': dict(type='BN', eps=1e-3)}, RTMDET, {},
     'says norm_cfg.eps=0.001'),
    (TOY_SWIN, SWIN, {**IN_SWIN, 'model.backbone.convert_weights': True},
     "takes the names of Microsoft's files, and loads nothing of this one. "
     'Give model.backbone.convert_weights=False.'),
    (dict(TOY_SWIN, window_size=4), SWIN, IN_SWIN,
     'it is for windows of 4 x 4 instead of 7 x 7. Give '
     'model.backbone.window_size=4'),
])
def test_what_is_not_the_backbones_is_refused(tmp_path, backbone, config,
                                              options, message):
    path = tmp_path / 'epoch_100.pth'
    write_student(path, backbone)
    lines, reason = check_transfer(config, str(path), options)
    assert message in reason
    assert 'backbone tensors arrived' in reason.split('.')[0]


def test_statistics_that_are_not_there(tmp_path):
    """Of one batch norm, with the file's other tensors untouched; how many
    batches it has seen is no matter."""
    path = tmp_path / 'epoch_100.pth'
    write_student(path, NARROW)
    file = torch.load(path, weights_only=True)
    del file['state_dict']['backbone.bn1.num_batches_tracked']
    torch.save(file, path)
    lines, reason = check_transfer(FASTER_RCNN, str(path), TOY_RESNET)
    assert reason == '' and 'computed, not learnt: 1' in lines
    del file['state_dict']['backbone.bn1.running_var']
    torch.save(file, path)
    lines, reason = check_transfer(FASTER_RCNN, str(path), TOY_RESNET)
    assert reason.startswith('316 of 317 backbone tensors arrived. Under the '
                             "prefix 'backbone.', bn1.running_var is missing.")


def test_norms_of_stages_that_were_not_aligned(tmp_path):
    """The last stage's alone is in the file; mmdet's has all four."""
    path = tmp_path / 'epoch_100.pth'
    write_student(path, TOY_SWIN)
    lines, reason = check_transfer(SWIN, str(path), IN_SWIN)
    assert reason == '' and 'new: not in this pre-training: 6' in lines


def test_images_of_the_other_order(tmp_path):
    path = tmp_path / 'epoch_100.pth'
    write_student(path, CSPNEXT)
    note, = (line for line in check_transfer(RTMDET, str(path))[0]
             if line.startswith('Note: '))
    assert 'mean=[123.675, 116.28, 103.53]' in note
    assert 'here has mean=[103.53, 116.28, 123.675]' in note
    assert note.endswith('to_rgb=False. Give it the same (to_rgb is '
                         'bgr_to_rgb in mmdet and mmseg).')
    lines, reason = check_transfer(str(CONFIGS / STOCK_RTMDET), str(path))
    assert reason == '' and not any(line.startswith('Note') for line in lines)


@pytest.mark.parametrize('name, path, more', [
    (STOCK_FASTER_RCNN, FASTER_RCNN, []),
    (STOCK_RTMDET, RTMDET, [
        f'model.data_preprocessor.{option}'
        for option in ('bgr_to_rgb', 'mean', 'std')]),
])
def test_the_model_is_mmdets(name, path, more):
    ours, stock_one = (Config.fromfile(each).to_dict()
                       for each in (CONFIGS / name, path))
    prefix = ['model.backbone.init_cfg.prefix'] * (not more)
    sections = ('model', 'optim_wrapper', 'train_cfg')
    found = differences({name: ours[name] for name in sections},
                        {name: stock_one[name] for name in sections})
    # MMEngine notes where a section comes from.
    assert [name for name in found if not name.endswith('_scope_')] == [
        'model.backbone.init_cfg.checkpoint', *prefix, *more]
    for cfg in (ours, stock_one):
        for step in cfg['param_scheduler']:
            step.pop('_scope_', None)
    assert ours['param_scheduler'] == stock_one['param_scheduler']


def simple_pipeline(cfg):
    """Without mosaics, which want more images than there are."""
    cfg.train_dataloader.dataset.pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='LoadAnnotations', with_bbox=True),
        dict(type='Resize', scale=(IMAGE_SIZE, IMAGE_SIZE)),
        dict(type='PackDetInputs')
    ]


@pytest.mark.slow
@pytest.mark.parametrize('name', [STOCK_FASTER_RCNN, STOCK_RTMDET])
def test_it_trains(name, coco, tmp_path):
    """An epoch of three steps: what is frozen in the stock config stays."""
    path = tmp_path / 'epoch_100.pth'
    is_resnet = name == STOCK_FASTER_RCNN
    student = write_student(path, NARROW if is_resnet else CSPNEXT)
    cfg = toy_config(name, coco, tmp_path / 'run', str(path))
    cfg.train_cfg.update(max_epochs=1, val_interval=10)
    cfg.param_scheduler = []
    if not is_resnet:
        simple_pipeline(cfg)
    runner = Runner.from_cfg(cfg)
    runner.train()
    losses, _ = runner.message_hub.get_scalar('train/loss').data
    assert len(losses) == 3 and all(loss == loss for loss in losses)
    start, now = student.state_dict(), runner.model.backbone.state_dict()
    unchanged = {
        name for name in now if torch.equal(now[name], start[name])
    }
    assert unchanged == {
        name for name in start if is_resnet and (
            'running' in name or 'num_batches' in name
            or name.startswith(('conv1.', 'bn1.', 'layer1.')))
    }
