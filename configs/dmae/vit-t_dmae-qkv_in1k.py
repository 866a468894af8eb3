# ViT-T learns as ViT-S does; its last block has 12 heads of 16 channels.
_base_ = './vit-s_dmae-qkv_in1k.py'

model = dict(backbone=dict(arch='deit-t'))
