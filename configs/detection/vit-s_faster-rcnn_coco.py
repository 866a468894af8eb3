# A light example: Faster R-CNN on COCO from a pre-trained ViT-S with parts of
# mmpretrain and mmdet only, for 12 epochs. Needs
# --cfg-options model.backbone.init_cfg.checkpoint=/path/of/epoch_100.pth
#
# All blocks attend globally, and the finest map has stride 16: small objects
# need vit-s_mask-rcnn_coco-1024.py. Learning rates are our choice, not tuned.
_base_ = [
    'mmdet::_base_/models/faster-rcnn_r50_fpn.py',
    'mmdet::_base_/datasets/coco_detection.py',
    'mmdet::_base_/schedules/schedule_1x.py',
    'mmdet::_base_/default_runtime.py',
    '../_base_/detection.py',
]

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmpretrain.VisionTransformer',
        arch='deit-s',
        img_size=224,
        patch_size=16,
        out_type='featmap',
        drop_path_rate=0.1,
        init_cfg={{_base_.pretrained}}),
    # Strides 16, 32 and 64, the latter two by pooling.
    neck=dict(in_channels=[384], num_outs=3),
    rpn_head=dict(
        anchor_generator=dict(scales=[2, 4, 8], strides=[16, 32, 64])),
    roi_head=dict(
        bbox_roi_extractor=dict(
            featmap_strides=[16, 32],
            # Objects of up to 2 x 224 px are taken from stride 16.
            finest_scale=224)))

# 16 images a step: 8 GPUs x 2 images. A sample has a seed of its
# own, and a run resumes exactly at the ends of epochs: see ExactResumeHook.
train_dataloader = dict(
    batch_size=2,
    sampler=dict(type='mmpretrain.SeededSampler'),
    dataset=dict(pipeline=[
        dict(type='mmpretrain.SeedSample'),
        *_base_.train_pipeline,  # noqa: F821
    ]))

optim_wrapper = dict(_delete_=True, **_base_.layer_decay)  # noqa: F821
default_hooks = dict(
    checkpoint=dict(type='mmpretrain.AtomicCheckpointHook'))
