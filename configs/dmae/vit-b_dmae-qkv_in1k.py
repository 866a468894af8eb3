# ViT-B learns relations from block 18 of 24 of MAE's ViT-L: see ViT-S.
_base_ = './vit-b_dmae_in1k.py'

model = dict(
    backbone=dict(mask_ratio=0., layer_cfgs=[{}] * 11 + [dict(num_heads=16)]),
    neck=None,
    head=None,
    aligned_layers=[(1.0, 0.75)],
    distill_neck=None,
    distill_loss=dict(_delete_=True, type='QKVRelationLoss'))
