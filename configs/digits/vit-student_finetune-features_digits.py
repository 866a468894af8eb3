# Fine-tune the student on the labels and on the features that the fine-tuned
# teacher has of all patches.
_base_ = 'vit-student_finetune_digits.py'

work_dir = 'work_dirs/quickstart/seed0/finetune_features'
model = dict(
    type='DistilledImageClassifier',
    teacher=dict(
        type='MMPretrainTeacher',
        backbone=dict(
            type='VisionTransformer',
            arch={{_base_.teacher_arch}},
            img_size=32,
            patch_size=4),
        checkpoint='work_dirs/quickstart/seed0/teacher_finetune/epoch_20.pth'),
    aligned_layers=[(0.75, 0.75)],
    # As in vit-student_dmae_digits.py.
    distill_loss=dict(type='FeatureAlignmentLoss', loss_weight=10.0))
