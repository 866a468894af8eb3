# One minus the cosine: 512 times the criterion of vit-b_dmae-l2_in1k.py (half
# of the 1024 channels), so it differs from that in weight only.
_base_ = '../dmae/vit-b_dmae_in1k.py'

model = dict(distill_loss=dict(criterion='cosine'))
