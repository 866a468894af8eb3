# Aligned at half of each depth: student block 5, teacher block 11.
_base_ = '../dmae/vit-b_dmae_in1k.py'

model = dict(aligned_layers=[(0.5, 0.5)])
