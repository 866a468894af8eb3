# Linear probe of a frozen, pre-trained ViT-B on ImageNet. Needs
# --cfg-options model.backbone.init_cfg.checkpoint=/path/of/epoch_100.pth
_base_ = [
    '../_base_/models/vit-p16_linear.py',
    '../_base_/datasets/imagenet_linear.py',
    '../_base_/schedules/linear_90e.py',
    '../_base_/default_runtime.py',
]

model = dict(
    backbone=dict(arch='b'),
    neck=dict(input_features=768),
    head=dict(in_channels=768))
