# ViT-B learns from ViT-B, of equal width: without a projector, and then, as in
# the paper's public code, from features that are not normalised.
_base_ = './vit-b_dmae-teacher-b_in1k.py'

model = dict(
    distill_neck=dict(projector='identity'),
    distill_loss=dict(normalize=False))
