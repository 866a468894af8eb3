# The same with a pre-trained ViT-B. Needs
# --cfg-options model.backbone.init_cfg.checkpoint=/path/of/epoch_100.pth
_base_ = './vit-s_upernet_ade20k-512x512.py'

model = dict(
    backbone=dict(arch='b'),
    neck=dict(embed_dim=768),
    # The width of mmseg's head on its ViT-B.
    decode_head=dict(in_channels=[768] * 4, channels=768),
    auxiliary_head=dict(in_channels=768))
