# Linear probe of a frozen, pre-trained Swin-T on ImageNet. Needs
# --cfg-options model.backbone.init_cfg.checkpoint=/path/of/epoch_100.pth
_base_ = [
    '../_base_/models/map_linear.py',
    '../_base_/datasets/imagenet_linear.py',
    '../_base_/schedules/linear_90e.py',
    '../_base_/default_runtime.py',
]

model = dict(
    # Its default is arch='tiny'. All four stages are frozen, and its norm.
    backbone=dict(type='SwinTransformer', frozen_stages=3),
    head=dict(in_channels=768))

# frozen_stages leaves a ConvNeXt's last norm out.
optim_wrapper = dict(
    paramwise_cfg=dict(custom_keys=dict(backbone=dict(lr_mult=0.))))
