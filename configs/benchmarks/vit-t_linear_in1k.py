# Linear probe of a frozen, pre-trained ViT-T on ImageNet. Needs
# --cfg-options model.backbone.init_cfg.checkpoint=/path/of/epoch_100.pth
_base_ = './vit-s_linear_in1k.py'

model = dict(
    backbone=dict(arch='deit-t'),
    neck=dict(input_features=192),
    head=dict(in_channels=192))
