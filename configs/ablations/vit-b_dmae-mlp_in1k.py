# The projector is an MLP: linear, GELU, linear.
_base_ = '../dmae/vit-b_dmae_in1k.py'

model = dict(distill_neck=dict(projector='mlp'))
