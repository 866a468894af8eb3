"""The COCO configs on a model, images and batches of toy size."""
import copy
import functools
from pathlib import Path
from typing import Optional

from mmengine.config import Config
from mmengine.runner import Runner

from tests.toys.models import ROOT
from .coco import CLASSES

CONFIGS = ROOT / 'configs' / 'detection'
MASK_RCNN = 'vit-s_mask-rcnn_coco-1024.py'
FASTER_RCNN = 'vit-s_faster-rcnn_coco.py'
ALL = ('vit-t_mask-rcnn_coco-1024.py', MASK_RCNN,
       'vit-b_mask-rcnn_coco-1024.py', FASTER_RCNN)
# mmdet's stock models, from students that are no vision transformers.
STOCK_FASTER_RCNN = 'resnet50_faster-rcnn_coco.py'
STOCK_RTMDET = 'cspnext-t_rtmdet_coco.py'
# Global are blocks 1 and 3.
ARCH = dict(
    embed_dims=32,
    num_layers=4,
    num_heads=2,
    feedforward_channels=64,
    global_attn_indexes=[1, 3])
IMAGE_SIZE = 128


def load(name: str) -> Config:
    return copy.deepcopy(_read(name))


@functools.lru_cache(maxsize=None)
def _read(name: str) -> Config:
    return Config.fromfile(CONFIGS / name)


def toy_config(name: str, coco: Path, work_dir: Path,
               checkpoint: Optional[str]) -> Config:
    """What ``--cfg-options`` would make of a config."""
    cfg = load(name)
    cfg.work_dir = str(work_dir)
    cfg.experiment_name = work_dir.name
    shrink_model(cfg.model, checkpoint)
    for loader in (cfg.train_dataloader, cfg.val_dataloader,
                   cfg.test_dataloader):
        loader.update(batch_size=2, num_workers=0, persistent_workers=False)
        dataset = loader.dataset
        if dataset.type == 'RepeatDataset':
            dataset.times = 1
            dataset = dataset.dataset
        dataset.update(
            data_root=str(coco),
            ann_file='shapes.json',
            data_prefix=dict(img='images/'),
            metainfo=dict(classes=CLASSES))
        shrink_pipeline(dataset.pipeline)
    for evaluator in (cfg.val_evaluator, cfg.test_evaluator):
        evaluator.ann_file = str(coco / 'shapes.json')
    cfg.optim_wrapper.type = 'OptimWrapper'  # mixed precision needs a GPU
    cfg.log_level = 'WARNING'
    cfg.default_hooks.logger.interval = 1
    return cfg


def shrink_model(model: Config, checkpoint: Optional[str]) -> None:
    if 'rpn_head' not in model:  # RTMDet-tiny, which is small
        model.backbone.init_cfg.checkpoint = checkpoint
        model.bbox_head.num_classes = 3
        model.test_cfg.nms_pre = 100
        return
    if model.backbone.type == 'ResNet':  # an eighth of its channels
        model.backbone.base_channels = 8
    else:
        model.backbone.update(arch=ARCH, img_size=IMAGE_SIZE)
    if model.backbone.type.endswith('WindowedViT'):
        model.backbone.window_size = 3
        model.data_preprocessor.pad_size_divisor = IMAGE_SIZE
    model.backbone.init_cfg = checkpoint and dict(
        model.backbone.init_cfg, checkpoint=checkpoint)
    width = ARCH['embed_dims']
    if model.backbone.type == 'ResNet':
        width = [number // 8 for number in model.neck.in_channels]
    elif not isinstance(model.neck.in_channels, int):
        width = [width]
    model.neck.update(in_channels=width, out_channels=32)
    model.rpn_head.update(in_channels=32, feat_channels=32)
    heads = model.roi_head
    heads.bbox_roi_extractor.out_channels = 32
    heads.bbox_head.update(in_channels=32, fc_out_channels=64, num_classes=3)
    if 'Conv' in heads.bbox_head.type:
        heads.bbox_head.conv_out_channels = 32
    if 'mask_head' in heads:
        heads.mask_roi_extractor.out_channels = 32
        heads.mask_head.update(
            in_channels=32, conv_out_channels=32, num_classes=3)
    for proposals in (model.train_cfg.rpn_proposal, model.test_cfg.rpn):
        proposals.update(nms_pre=200, max_per_img=50)
    model.train_cfg.rcnn.sampler.num = 32


def shrink_pipeline(pipeline: list) -> None:
    size = (IMAGE_SIZE, IMAGE_SIZE)
    for step in pipeline:
        if step.type in ('Resize', 'RandomResize'):
            step.scale = size
        if step.type == 'RandomResize':
            step.ratio_range = (0.8, 1.2)
        if step.type == 'RandomCrop':
            step.crop_size = size


def train_long(cfg: Config, epochs: int, lr: float) -> None:
    """A schedule for a toy: one rate, for all blocks and epochs."""
    cfg.train_cfg.update(max_epochs=epochs, val_interval=epochs)
    cfg.optim_wrapper.optimizer.lr = lr
    cfg.optim_wrapper.paramwise_cfg.layer_decay_rate = 1.
    cfg.param_scheduler = []


def train(cfg: Config) -> Runner:
    runner = Runner.from_cfg(cfg)
    runner.train()
    return runner
