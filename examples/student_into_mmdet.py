"""Take a distilled student to mmdet: check, train, detect, draw.

    python examples/student_into_mmdet.py CHECKPOINT    # of a ResNet-50
    python examples/student_into_mmdet.py CHECKPOINT \
        --config configs/detection/vit-s_faster-rcnn_coco.py    # of a ViT-S

It needs mmdet and an mmcv with compiled ops: `make venv WITH_OPS=1`. Images
and boxes are COCO's, or any others in COCO's format.
"""
# %% [markdown]
# ## What is asked for

# %%
import argparse
import json
import sys
from pathlib import Path

import mmcv
from mmdet.apis import inference_detector, init_detector
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.hub import get_config
from mmengine.runner import Runner

from dmae_mm.launch import adapt_to_platform
from dmae_mm.weights.check_transfer import check_transfer

parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
parser.add_argument('checkpoint', nargs='?', default='CHECKPOINT')
parser.add_argument('--config', help="default: mmdet's stock Faster R-CNN",
                    default='mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py')
parser.add_argument('--images', default='data/coco/train2017')
parser.add_argument('--annotations',
                    default='data/coco/annotations/instances_train2017.json')
parser.add_argument('--iterations', type=int, default=1000)
parser.add_argument('--size', type=int, default=800, help='shorter side')
parser.add_argument('--out', default='work_dirs/student_into_mmdet')
args = parser.parse_args([] if 'get_ipython' in globals() else None)

# %% [markdown]
# ## A stock config and a student
#
# In its checkpoint, the names of the student's tensors begin with `backbone.`.
# That prefix is all that MMEngine's `Pretrained` has to know.

# %%
with open(args.annotations) as file:
    annotations = json.load(file)
classes = [category['name'] for category in annotations['categories']]

cfg = (get_config if '::' in args.config else Config.fromfile)(args.config)
cfg.model.backbone.init_cfg = dict(
    type='Pretrained', checkpoint=args.checkpoint, prefix='backbone.')
cfg.model.roi_head.bbox_head.num_classes = len(classes)
cfg.model.test_cfg.rcnn.score_thr = 0.  # the best boxes, however uncertain

# %% [markdown]
# The rest is data and length: a warm-up and some iterations, at the learning
# rate for the images of one batch, without validation.

# %%
for loader in (cfg.train_dataloader, cfg.test_dataloader):
    loader.dataset.update(
        data_root='', ann_file=args.annotations,
        data_prefix=dict(img=args.images), metainfo=dict(classes=classes))
    for step in loader.dataset.pipeline:
        if step.type == 'Resize':
            step.scale = (args.size * 1333 // 800, args.size)
cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=args.iterations)
cfg.param_scheduler = [dict(
    type='LinearLR', start_factor=0.001, by_epoch=False, begin=0,
    end=max(2, args.iterations // 10))]
cfg.optim_wrapper.optimizer.lr *= (
    cfg.train_dataloader.batch_size / cfg.auto_scale_lr.base_batch_size)
cfg.log_processor.by_epoch = False
cfg.default_hooks.logger.interval = max(1, args.iterations // 20)
cfg.default_hooks.checkpoint = dict(
    type='CheckpointHook', by_epoch=False, interval=args.iterations)
cfg.custom_imports = dict(imports=['dmae_mm'], allow_failed_imports=False)
# It stops a run whose backbone has not got its weights.
cfg.custom_hooks = [dict(type='mmpretrain.PretrainedBackboneHook')]
cfg.work_dir, cfg.launcher = args.out, 'none'
adapt_to_platform(cfg)  # mixed precision, where the machine has it
Path(args.out).mkdir(parents=True, exist_ok=True)
cfg.dump(f'{args.out}/config.py')

# %% [markdown]
# ## Did every tensor arrive?
#
# A wrong prefix or another depth would train a random backbone, silently.

# %%
table, reason = check_transfer(f'{args.out}/config.py', args.checkpoint)
print('\n'.join(table))
if reason:
    sys.exit(f'error: {reason}')

# %% [markdown]
# ## Train

# %%
runner = Runner.from_cfg(cfg)
runner.train()
losses, _ = runner.message_hub.get_scalar('train/loss').data
print(f'Loss: {losses[0]:.3f} in the first iteration, {losses[-1]:.3f} in the '
      'last.')

# %% [markdown]
# ## Detect and draw
#
# As anybody would load the detector: from its config and its checkpoint.

# %%
detector = init_detector(
    f'{args.out}/config.py', f'{args.out}/iter_{args.iterations}.pth',
    device=get_device())
image = str(Path(args.images, annotations['images'][0]['file_name']))
found = inference_detector(detector, image)
found.pred_instances = found.pred_instances[:10]  # the most certain ones
for box, score, label in zip(found.pred_instances.bboxes.tolist(),
                             found.pred_instances.scores.tolist(),
                             found.pred_instances.labels.tolist()):
    print(f'{score:.3f} {classes[label]:12}',
          *(f'{edge:7.1f}' for edge in box))

# %%
runner.visualizer.dataset_meta = detector.dataset_meta
runner.visualizer.add_datasample(
    'detections', mmcv.imread(image, channel_order='rgb'), found.cpu(),
    draw_gt=False, pred_score_thr=0, out_file=f'{args.out}/detections.png')
print(f'Picture: {args.out}/detections.png')
