# Fine-tune a pre-trained ViT-B on 10 percent of ImageNet's labels, on the list
# and with the schedule of ViT-S. Needs
# --cfg-options model.backbone.init_cfg.checkpoint=/path/of/epoch_100.pth
_base_ = './vit-s_finetune-10pct_in1k.py'

model = dict(backbone=dict(arch='b'), head=dict(in_channels=768))
