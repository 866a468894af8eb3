# The same with a pre-trained ViT-T. Needs
# --cfg-options model.backbone.init_cfg.checkpoint=/path/of/epoch_100.pth
_base_ = './vit-s_upernet_ade20k-512x512.py'

model = dict(
    backbone=dict(arch='deit-t'),
    neck=dict(embed_dim=192),
    decode_head=dict(in_channels=[192] * 4),
    auxiliary_head=dict(in_channels=192))
