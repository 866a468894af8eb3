# A ResNet-18 of three stages of 16, 32 and 64 channels learns as in SparK, on
# digits enlarged to 64 px: with its stride of 16, a mask hides some of 4 x 4
# regions.
_base_ = 'vit-student_dmae_digits.py'

work_dir = 'work_dirs/students/resnet'
model = dict(
    backbone=dict(
        _delete_=True,
        type='SparseResNet',
        depth=18,
        num_stages=3,
        strides=(1, 2, 2),
        dilations=(1, 1, 1),
        stem_channels=16,
        base_channels=16,
        out_indices=(0, 1, 2)),
    neck=dict(
        _delete_=True,
        type='SparKLightDecoder',
        feature_dim=64,
        upsample_ratio=16),
    head=dict(
        _delete_=True,
        type='SparKPretrainHead',
        patch_size=16,
        loss=dict(type='PixelReconstructionLoss', criterion='L2')),
    input_size=64,
    downsample_raito=16,
    mask_ratio=0.6,
    aligned_layers=[(-1, 0.75)])

train_dataloader = dict(
    dataset=dict(pipeline=[
        dict(type='SeedSample'),
        dict(type='LoadImageFromFile'),
        dict(
            type='RandomResizedCrop',
            scale=64,
            crop_ratio_range=(0.6, 1.0),
            interpolation='bicubic'),
        dict(type='PackInputs')
    ]))
