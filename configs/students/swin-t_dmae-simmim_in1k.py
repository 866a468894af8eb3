# Swin-T learns as in SimMIM and from the ViT-B of MAE. Its 7 x 7 regions of
# 32 px, of which a mask hides 30, are 2 x 2 patches of the teacher each.
_base_ = '../dmae/vit-s_dmae_in1k.py'

model = dict(
    # 224 px and windows of 7 cells, as Swin-T is used afterwards: tables of
    # relative positions then need no resampling.
    backbone=dict(
        _delete_=True,
        type='SimMIMSwinTransformer',
        arch='tiny',
        img_size=224,
        drop_path_rate=0.),
    neck=dict(
        _delete_=True,
        type='SimMIMLinearDecoder',
        in_channels=96 * 2**3,
        encoder_stride=32),
    head=dict(
        _delete_=True,
        type='SimMIMHead',
        patch_size=4,
        loss=dict(type='PixelReconstructionLoss', criterion='L1', channel=3)),
    # Stage 2 of 0 to 3: its cells are the teacher's patches.
    aligned_layers=[(2, 0.75)])

train_pipeline = [
    dict(type='SeedSample'),
    dict(type='LoadImageOrSkip'),
    dict(
        type='FastRandomResizedCrop',
        scale=224,
        crop_ratio_range=(0.67, 1.0),
        interpolation='bicubic',
        flip_prob=0.5),
    dict(
        type='SimMIMMaskGenerator',
        input_size=224,
        mask_patch_size=32,
        model_patch_size=4,
        mask_ratio=0.6),
    dict(
        type='PackInputs',
        meta_keys=('img_path', 'sample_idx', 'skipped_images'))
]
train_dataloader = dict(
    batch_size=256, dataset=dict(pipeline=train_pipeline))

# As mmpretrain's SimMIM: 2048 images a step, 8 GPUs x 256 images.
optim_wrapper = dict(
    accumulative_counts=1,
    optimizer=dict(lr=2e-4 * 2048 / 512, betas=(0.9, 0.999)),
    clip_grad=dict(max_norm=5.0),
    paramwise_cfg=dict(
        custom_keys={'relative_position_bias_table': dict(decay_mult=0.)}))

param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=1e-6 / 2e-4,
        by_epoch=True,
        begin=0,
        end=10,
        convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR',
        T_max=90,
        eta_min=1e-5 * 2048 / 512,
        by_epoch=True,
        begin=10,
        end=100,
        convert_to_iter_based=True)
]

auto_scale_lr = dict(base_batch_size=2048)
