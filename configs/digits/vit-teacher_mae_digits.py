# The teacher of the quick start: plain MAE, larger and trained for longer.
_base_ = 'vit-student_mae_digits.py'

work_dir = 'work_dirs/quickstart/seed0/teacher'
model = dict(
    backbone=dict(
        arch={{_base_.teacher_arch}}),
    neck=dict(embed_dim=96))
optim_wrapper = dict(optimizer=dict(lr=1e-3))
param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=1e-3,
        end=6,
        convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR',
        begin=6,
        end=60,
        eta_min=0.0,
        convert_to_iter_based=True)
]
train_cfg = dict(max_epochs=60)
