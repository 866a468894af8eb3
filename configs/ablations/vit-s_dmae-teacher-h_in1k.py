# ViT-S learns from ViT-H.
_base_ = './vit-b_dmae-teacher-h_in1k.py'

model = dict(backbone=dict(arch='deit-s'), neck=dict(embed_dim=384))
