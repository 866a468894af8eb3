# Squared differences of the normalised features.
_base_ = '../dmae/vit-b_dmae_in1k.py'

model = dict(distill_loss=dict(criterion='L2'))
