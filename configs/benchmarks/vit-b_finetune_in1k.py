# Fine-tune a pre-trained ViT-B on ImageNet. Needs
# --cfg-options model.backbone.init_cfg.checkpoint=/path/of/epoch_100.pth
_base_ = './vit-s_finetune_in1k.py'

model = dict(backbone=dict(arch='b'), head=dict(in_channels=768))
