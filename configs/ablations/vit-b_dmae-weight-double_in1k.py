# The alignment weighs 2.
_base_ = '../dmae/vit-b_dmae_in1k.py'

model = dict(distill_loss=dict(loss_weight=2.0))
