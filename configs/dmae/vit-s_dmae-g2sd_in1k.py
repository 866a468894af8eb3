# The decoder of ViT-S predicts the features of the teacher's decoder, as in
# the generic stage of G2SD (arXiv 2302.14431), which lasts 300 epochs
# (--epochs 300). The teacher runs whole.
_base_ = './vit-s_dmae_in1k.py'

model = dict(
    head=None,
    teacher=dict(type='MAETeacher'),
    aligned_layers=[(1.0, 0.5)],
    distill_neck=dict(projector='mlp'),
    distill_loss=dict(_delete_=True, type='MaskedFeatureLoss'))
