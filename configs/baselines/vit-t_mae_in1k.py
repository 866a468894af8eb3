# Plain MAE: the control of vit-t_dmae_in1k.py, without a teacher.
_base_ = '../dmae/vit-t_dmae_in1k.py'

model = dict(teacher=None, aligned_layers=[])
