# ViT-S learns relations of queries with keys and of values, as in TinyMIM
# (arXiv 2301.01296): all patches are visible, there is no decoder, and the
# last block has as many heads as the teacher's. The paper trains 300 epochs
# (--epochs 300) and jitters the colours of the student's images alone.
_base_ = './vit-s_dmae_in1k.py'

model = dict(
    backbone=dict(mask_ratio=0., layer_cfgs=[{}] * 11 + [dict(num_heads=12)]),
    neck=None,
    head=None,
    aligned_layers=[(1.0, 1.0)],
    distill_neck=None,
    distill_loss=dict(_delete_=True, type='QKVRelationLoss'))
