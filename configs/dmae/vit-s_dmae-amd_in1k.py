# ViT-S learns as in AMD (https://arxiv.org/abs/2311.03149): it sees 19
# patches, the teacher 49. The middle and the last block are aligned where both
# see, and a generator predicts the teacher's features of the others. The
# losses of the two pairs are averaged.
_base_ = './vit-s_dmae_in1k.py'

model = dict(
    backbone=dict(mask_ratio=0.9),
    teacher_mask_ratio=0.75,
    aligned_layers=[(0.5, 0.5), (1.0, 1.0)],
    distill_neck=dict(projector='linear_no_bias'),
    distill_loss=dict(criterion='L2', normalize=False, loss_weight=0.5),
    generator=dict(type='FeatureGenerationNeck'))
