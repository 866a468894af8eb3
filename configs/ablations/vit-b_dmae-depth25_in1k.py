# Aligned at a quarter of each depth: student block 2, teacher block 5.
_base_ = '../dmae/vit-b_dmae_in1k.py'

model = dict(aligned_layers=[(0.25, 0.25)])
