# Plain MAE: the control of vit-s_dmae_in1k.py, without a teacher.
_base_ = '../dmae/vit-s_dmae_in1k.py'

model = dict(teacher=None, aligned_layers=[])
