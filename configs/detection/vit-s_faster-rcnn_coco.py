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
]
custom_imports = dict(imports=['dmae_mm'], allow_failed_imports=False)

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmpretrain.VisionTransformer',
        arch='deit-s',
        img_size=224,
        patch_size=16,
        out_type='featmap',
        drop_path_rate=0.1,
        # No such file: training stops until
        # --cfg-options model.backbone.init_cfg.checkpoint=... names one.
        init_cfg=dict(
            type='Pretrained',
            checkpoint='PATH_OF_THE_PRETRAINED_CHECKPOINT',
            prefix='backbone.')),
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

optim_wrapper = dict(
    _delete_=True,
    type='AmpOptimWrapper',
    optimizer=dict(
        type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.1),
    constructor='BackboneLayerDecayConstructor',
    paramwise_cfg=dict(
        layer_decay_rate=0.7,
        norm_decay_mult=0.,
        custom_keys={
            '.cls_token': dict(decay_mult=0.),
            '.pos_embed': dict(decay_mult=0.)
        }))

custom_hooks = [
    dict(type='mmpretrain.ExactResumeHook'),
    dict(type='mmpretrain.PretrainedBackboneHook')
]
default_hooks = dict(
    checkpoint=dict(type='mmpretrain.AtomicCheckpointHook'))
randomness = dict(seed=0, diff_rank_seed=True)
