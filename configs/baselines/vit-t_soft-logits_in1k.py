# ViT-T learns from the same teacher as ViT-S.
_base_ = './vit-s_soft-logits_in1k.py'

model = dict(backbone=dict(arch='deit-t'), head=dict(in_channels=192))
