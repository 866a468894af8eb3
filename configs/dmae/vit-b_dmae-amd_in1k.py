# ViT-B learns as vit-s_dmae-amd_in1k.py says, from ViT-L.
_base_ = './vit-b_dmae_in1k.py'

model = dict(
    backbone=dict(mask_ratio=0.9),
    teacher_mask_ratio=0.75,
    aligned_layers=[(0.5, 0.5), (1.0, 1.0)],
    distill_neck=dict(projector='linear_no_bias'),
    distill_loss=dict(criterion='L2', normalize=False, loss_weight=0.5),
    generator=dict(type='FeatureGenerationNeck'))
