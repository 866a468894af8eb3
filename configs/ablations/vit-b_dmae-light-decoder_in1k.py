# A decoder of cross-attention that predicts a third of the masked patches, as
# in "Rethinking Patch Dependence for Masked Autoencoders" (CrossMAE).
_base_ = '../dmae/vit-b_dmae_in1k.py'

model = dict(neck=dict(type='CrossAttentionDecoder', predict_ratio=0.25))
