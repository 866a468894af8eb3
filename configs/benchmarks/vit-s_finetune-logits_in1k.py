# Fine-tune a pre-trained ViT-S on ImageNet, with labels and the logits of a
# ViT-B that mmpretrain fine-tuned after MAE. Needs
# --cfg-options model.backbone.init_cfg.checkpoint=/path/of/epoch_100.pth
_base_ = [
    '../_base_/models/vit-p16_distill-logits.py',
    '../_base_/datasets/imagenet_finetune.py',
    '../_base_/schedules/finetune_100e.py',
    '../_base_/default_runtime.py',
]

model = dict(
    backbone=dict(arch='deit-s'),
    head=dict(in_channels=384),
    teacher=dict(
        model=dict(backbone=dict(arch='b'), head=dict(in_channels=768)),
        checkpoint='https://mmassets.onedl.ai/mmselfsup/1.x/mae/'
        'mae_vit-base-p16_8xb512-fp16-coslr-1600e_in1k/'
        'vit-base-p16_ft-8xb128-coslr-100e_in1k/'
        'vit-base-p16_ft-8xb128-coslr-100e_in1k_20220825-cf70aa21.pth'))
