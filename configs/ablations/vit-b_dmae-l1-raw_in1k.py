# Absolute differences of the features as they are, not normalised.
_base_ = '../dmae/vit-b_dmae_in1k.py'

model = dict(distill_loss=dict(normalize=False))
