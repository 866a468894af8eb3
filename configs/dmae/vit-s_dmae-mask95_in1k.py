# 9 of 196 patches stay visible.
_base_ = './vit-s_dmae_in1k.py'

model = dict(backbone=dict(mask_ratio=0.95))
