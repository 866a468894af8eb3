# Fine-tune a pre-trained ViT-T on 1 percent of ImageNet's labels, on the list
# and with the schedule of ViT-S. Needs
# --cfg-options model.backbone.init_cfg.checkpoint=/path/of/epoch_100.pth
_base_ = './vit-s_finetune-1pct_in1k.py'

model = dict(backbone=dict(arch='deit-t'), head=dict(in_channels=192))
