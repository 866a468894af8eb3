# ViT-B learns from ViT-B.
_base_ = '../dmae/vit-s_dmae_in1k.py'

model = dict(backbone=dict(arch='b'), neck=dict(embed_dim=768))
