# ViT-T learns relations from the same teacher as ViT-S.
_base_ = './vit-s_dmae-qkv_in1k.py'

model = dict(backbone=dict(arch='deit-t'))
