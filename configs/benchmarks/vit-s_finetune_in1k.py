# Fine-tune a pre-trained ViT-S on ImageNet. Needs
# --cfg-options model.backbone.init_cfg.checkpoint=/path/of/epoch_100.pth
_base_ = [
    '../_base_/models/vit-p16_finetune.py',
    '../_base_/datasets/imagenet_finetune.py',
    '../_base_/schedules/finetune_100e.py',
    '../_base_/default_runtime.py',
]

model = dict(backbone=dict(arch='deit-s'), head=dict(in_channels=384))
