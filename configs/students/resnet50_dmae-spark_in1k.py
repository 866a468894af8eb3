# ResNet-50 learns as in SparK and from the ViT-B of MAE. Of its 7 x 7 regions
# of 32 px, 2 x 2 patches of the teacher each, 20 are visible.
_base_ = '../dmae/vit-s_dmae_in1k.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='SparseResNet',
        depth=50,
        out_indices=(0, 1, 2, 3),
        drop_path_rate=0.05),
    neck=dict(
        _delete_=True,
        type='SparKLightDecoder',
        feature_dim=512,
        upsample_ratio=32),
    head=dict(
        _delete_=True,
        type='SparKPretrainHead',
        loss=dict(type='PixelReconstructionLoss', criterion='L2')),
    mask_ratio=0.6,
    # Stage 2 of 0 to 3: its cells are the teacher's patches.
    aligned_layers=[(2, 0.75)])

train_dataloader = dict(batch_size=512)

# As mmpretrain's SparK, in 100 epochs instead of 800 or 1600: 4096 images a
# step, 8 GPUs x 512 images.
optim_wrapper = dict(
    accumulative_counts=1,
    optimizer=dict(
        _delete_=True,
        type='Lamb',
        lr=2e-4 * 4096 / 512,
        betas=(0.9, 0.95),
        weight_decay=0.04),
    clip_grad=dict(max_norm=5.0),
    paramwise_cfg=dict(
        bias_decay_mult=0., custom_keys={'mask_token': dict(decay_mult=0.)}))

param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=1e-4,
        by_epoch=True,
        begin=0,
        end=5,
        convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR',
        T_max=95,
        by_epoch=True,
        begin=5,
        end=100,
        convert_to_iter_based=True),
    dict(
        type='CosineAnnealingWeightDecay',
        eta_min=0.2,
        T_max=100,
        by_epoch=True,
        begin=0,
        end=100,
        convert_to_iter_based=True)
]
