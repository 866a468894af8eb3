# Fine-tune the quick start's teacher: the teacher of the baselines that
# distil a fine-tuned one.
_base_ = 'vit-student_finetune_digits.py'

work_dir = 'work_dirs/quickstart/seed0/teacher_finetune'
model = dict(
    backbone=dict(
        arch={{_base_.teacher_arch}},
        init_cfg=dict(
            checkpoint='work_dirs/quickstart/seed0/teacher/epoch_60.pth')),
    head=dict(in_channels=96))
optim_wrapper = dict(optimizer=dict(lr=1e-3))
