# A decoder of 2 blocks in the place of 8.
_base_ = '../dmae/vit-b_dmae_in1k.py'

model = dict(neck=dict(decoder_depth=2))
