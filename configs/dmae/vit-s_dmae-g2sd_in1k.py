# ViT-S learns as in the generic stage of G2SD
# (https://arxiv.org/abs/2302.14431): the last block of its decoder predicts,
# of all patches, what block 4 of 8 of the teacher's decoder shows. No pixels
# are predicted. The paper's second stage is vit-s_finetune-logits.
_base_ = './vit-s_dmae_in1k.py'

model = dict(
    head=None,
    # Its decoder is in the same file.
    teacher=dict(type='MAETeacher'),
    aligned_layers=[(1.0, 0.5)],
    distill_neck=dict(projector='mlp'),
    distill_loss=dict(_delete_=True, type='MaskedFeatureLoss'))
