# Aligned at the last block of each: student block 11, teacher block 23.
_base_ = '../dmae/vit-b_dmae_in1k.py'

model = dict(aligned_layers=[(1.0, 1.0)])
