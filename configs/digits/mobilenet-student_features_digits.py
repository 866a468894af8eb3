# MobileNetV3-S of half the width learns the teacher's features, on digits
# enlarged to 64 px, of which its last map has 2 x 2 places.
_base_ = 'vit-student_dmae_digits.py'

work_dir = 'work_dirs/students/mobilenet'
model = dict(
    _delete_=True,
    type='FeatureDistiller',
    backbone=dict(
        type='MobileNetV3',
        arch='small_050',
        # The default momentum of 0.01 is for longer trainings: its statistics
        # would not have arrived after the 230 steps of the study.
        norm_cfg=dict(type='BN', eps=0.001, momentum=0.1)),
    teacher={{_base_.model.teacher}},
    aligned_layers=[(-1, 0.75)],
    distill_loss={{_base_.model.distill_loss}},
    data_preprocessor={{_base_.model.data_preprocessor}})

train_dataloader = dict(
    dataset=dict(pipeline=[
        dict(type='SeedSample'),
        dict(type='LoadImageFromFile'),
        dict(
            type='RandomResizedCrop',
            scale=64,
            crop_ratio_range=(0.6, 1.0),
            interpolation='bicubic'),
        dict(type='PackInputs')
    ]))
