# Mask R-CNN on COCO at 1024 px from a pre-trained ViT-T. Needs
# --cfg-options model.backbone.init_cfg.checkpoint=/path/of/epoch_100.pth
_base_ = 'vit-s_mask-rcnn_coco-1024.py'

model = dict(
    backbone=dict(arch='deit-t', drop_path_rate=0.),
    neck=dict(in_channels=192))
