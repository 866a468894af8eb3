# ViT-T learns from the same teacher as ViT-S.
_base_ = './vit-s_dmae_in1k.py'

model = dict(backbone=dict(arch='deit-t'), neck=dict(embed_dim=192))
