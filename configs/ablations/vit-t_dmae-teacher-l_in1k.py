# ViT-T learns from ViT-L.
_base_ = '../dmae/vit-b_dmae_in1k.py'

model = dict(backbone=dict(arch='deit-t'), neck=dict(embed_dim=192))
