# ViT-B learns from the ViT-L that MAE pre-trained for 1600 epochs.
_base_ = './vit-s_dmae_in1k.py'

model = dict(
    backbone=dict(arch='b'),
    neck=dict(embed_dim=768),
    teacher=dict(
        backbone=dict(arch='l'),
        checkpoint='https://mmassets.onedl.ai/mmselfsup/1.x/mae/'
        'mae_vit-large-p16_8xb512-fp16-coslr-1600e_in1k/'
        'mae_vit-large-p16_8xb512-fp16-coslr-1600e_in1k_20220825-cc7e98c9.pth'
    ))
