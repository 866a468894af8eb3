# Mask R-CNN on COCO at 1024 px from a pre-trained ViT-S, as in ViTDet (Li et
# al., "Exploring Plain Vision Transformer Backbones for Object Detection").
# Needs
# --cfg-options model.backbone.init_cfg.checkpoint=/path/of/epoch_100.pth
#
# Unlike there, no relative positions: every tensor of the backbone comes from
# the checkpoint. Drop path and layer decay are the paper's for ViT-B; for
# ViT-S and ViT-T, which it does not have, they are our choice, not tuned.
_base_ = [
    'mmdet::_base_/models/mask-rcnn_r50_fpn.py',
    'mmdet::common/lsj-100e_coco-instance.py',
    '../_base_/detection.py',
]

image_size = (1024, 1024)
norm_cfg = dict(type='mmpretrain.LN2d', eps=1e-6)
model = dict(
    # Smaller images are filled up after normalisation, in training and
    # testing, so that positions are always those of 1024 px.
    data_preprocessor=dict(pad_size_divisor=1024),
    backbone=dict(
        _delete_=True,
        type='mmpretrain.WindowedViT',
        arch='deit-s',
        img_size=1024,
        patch_size=16,
        drop_path_rate=0.1,
        init_cfg={{_base_.pretrained}}),
    neck=dict(
        _delete_=True,
        type='SimpleFeaturePyramid',
        in_channels=384,
        out_channels=256,
        num_outs=5),
    rpn_head=dict(num_convs=2),
    roi_head=dict(
        bbox_head=dict(type='Shared4Conv1FCBBoxHead', norm_cfg=norm_cfg),
        mask_head=dict(norm_cfg=norm_cfg)))

# 64 images a step: 32 GPUs x 2 images. A sample has a seed of its
# own, and a run resumes exactly at the ends of epochs: see ExactResumeHook.
train_dataloader = dict(
    batch_size=2,
    sampler=dict(type='mmpretrain.SeededSampler'),
    dataset=dict(dataset=dict(pipeline=[
        dict(type='mmpretrain.SeedSample'),
        *_base_.train_pipeline,  # noqa: F821
    ])))
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=image_size, keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape',
                   'scale_factor'))
]
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

optim_wrapper = dict(_delete_=True, **_base_.layer_decay)  # noqa: F821
# 25 epochs of 4 passes each; lower rates from 88% and 96% on.
param_scheduler = [
    dict(
        type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=250),
    dict(
        type='MultiStepLR',
        by_epoch=True,
        begin=0,
        end=25,
        milestones=[22, 24],
        gamma=0.1)
]
default_hooks = dict(
    checkpoint=dict(type='mmpretrain.AtomicCheckpointHook'))
