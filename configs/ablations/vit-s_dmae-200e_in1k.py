# 200 epochs in the place of 100; the warm-up of 20 stays.
_base_ = '../dmae/vit-s_dmae_in1k.py'

train_cfg = dict(max_epochs=200)
_base_.param_scheduler[1].update(end=200, T_max=180)
