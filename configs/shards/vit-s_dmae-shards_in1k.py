# configs/dmae/vit-s_dmae_in1k.py, from shards.
_base_ = [
    '../_base_/models/dmae_vit-p16.py',
    '../_base_/datasets/image_shards.py',
    '../_base_/schedules/pretrain_100e.py',
    '../_base_/default_runtime.py',
]

model = dict(
    backbone=dict(arch='deit-s'),
    neck=dict(embed_dim=384),
    teacher=dict(
        backbone=dict(arch='b'),
        checkpoint='https://mmassets.onedl.ai/mmselfsup/1.x/mae/'
        'mae_vit-base-p16_8xb512-fp16-coslr-1600e_in1k/'
        'mae_vit-base-p16_8xb512-fp16-coslr-1600e_in1k_20220825-f7569ca2.pth'))
