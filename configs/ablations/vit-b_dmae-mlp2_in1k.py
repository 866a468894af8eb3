# The projector is two MLPs in a row.
_base_ = '../dmae/vit-b_dmae_in1k.py'

model = dict(distill_neck=dict(projector='mlp2'))
