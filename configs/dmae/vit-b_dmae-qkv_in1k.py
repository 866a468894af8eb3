# ViT-B learns as in TinyMIM (https://arxiv.org/abs/2301.01296): relations of
# queries with keys, and of values, in its last block and block 18 of 24 of its
# teacher, ViT-L. Both see whole images, and no pixels are predicted. The paper
# has 300 epochs (--epochs 300).
_base_ = './vit-b_dmae_in1k.py'

model = dict(
    backbone=dict(
        mask_ratio=0.,
        # As many heads in the last block as the teacher's blocks have. A
        # config of fine-tuning must have the same list.
        layer_cfgs=[dict()] * 11 + [dict(num_heads=16)]),
    neck=None,
    head=None,
    aligned_layers=[(1.0, 0.75)],
    distill_neck=None,
    distill_loss=dict(_delete_=True, type='QKVRelationLoss'))
