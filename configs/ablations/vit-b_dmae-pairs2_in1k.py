# Two aligned pairs: half and three quarters of each depth. Each has a
# projector of its own, and their losses are added.
_base_ = '../dmae/vit-b_dmae_in1k.py'

model = dict(aligned_layers=[(0.5, 0.5), (0.75, 0.75)])
