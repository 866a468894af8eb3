# Linear probe of a frozen, pre-trained ViT-B on ImageNet. Needs
# --cfg-options model.backbone.init_cfg.checkpoint=/path/of/epoch_100.pth
_base_ = './vit-s_linear_in1k.py'

model = dict(
    backbone=dict(arch='b'),
    neck=dict(input_features=768),
    head=dict(in_channels=768))
