# ViT-S learns from the ViT-B that MAE pre-trained for 1600 epochs.
_base_ = [
    '../_base_/models/dmae_vit-p16.py',
    '../_base_/datasets/image_folder.py',
    '../_base_/schedules/pretrain_100e.py',
    '../_base_/default_runtime.py',
]

model = dict(
    # The paper's ViT-S is 384 wide. mmpretrain's arch 'small' is another one.
    backbone=dict(arch='deit-s'),
    neck=dict(embed_dim=384),
    teacher=dict(
        backbone=dict(arch='b'),
        checkpoint='https://mmassets.onedl.ai/mmselfsup/1.x/mae/'
        'mae_vit-base-p16_8xb512-fp16-coslr-1600e_in1k/'
        'mae_vit-base-p16_8xb512-fp16-coslr-1600e_in1k_20220825-f7569ca2.pth'))
