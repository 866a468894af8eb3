# 400 epochs in the place of 100; the warm-up of 20 stays.
_base_ = '../dmae/vit-b_dmae_in1k.py'

train_cfg = dict(max_epochs=400)
_base_.param_scheduler[1].update(end=400, T_max=380)
