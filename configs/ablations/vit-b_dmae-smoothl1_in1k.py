# Squared differences below 1 / sqrt(1024 channels), the size of an element of
# a normalised token, absolute ones above. With a beta of 1 this would be half
# of vit-b_dmae-l2_in1k.py.
_base_ = '../dmae/vit-b_dmae_in1k.py'

model = dict(distill_loss=dict(criterion='smooth_L1'))
