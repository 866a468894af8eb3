# A Swin of two stages (4 blocks of 32 and 64 channels) learns as in SimMIM.
# The cells of its second stage are the teacher's patches.
_base_ = 'vit-student_dmae_digits.py'

work_dir = 'work_dirs/students/swin'
model = dict(
    backbone=dict(
        _delete_=True,
        type='SimMIMSwinTransformer',
        arch=dict(embed_dims=32, depths=[2, 2], num_heads=[2, 4]),
        img_size=32,
        patch_cfg=dict(kernel_size=2, stride=2),
        stage_cfgs=dict(window_size=4),
        out_indices=(1, ),
        drop_path_rate=0.),
    neck=dict(
        _delete_=True,
        type='SimMIMLinearDecoder',
        in_channels=64,
        encoder_stride=4),
    head=dict(
        _delete_=True,
        type='SimMIMHead',
        patch_size=2,
        loss=dict(type='PixelReconstructionLoss', criterion='L1', channel=3)),
    aligned_layers=[(-1, 0.75)])

train_dataloader = dict(
    dataset=dict(pipeline=[
        dict(type='SeedSample'),
        dict(type='LoadImageFromFile'),
        dict(
            type='RandomResizedCrop',
            scale=32,
            crop_ratio_range=(0.6, 1.0),
            interpolation='bicubic'),
        dict(
            type='SimMIMMaskGenerator',
            input_size=32,
            mask_patch_size=4,
            model_patch_size=2,
            mask_ratio=0.6),
        dict(type='PackInputs')
    ]))
