# Fine-tune the student on the labels and on the logits of the fine-tuned
# teacher.
_base_ = 'vit-student_finetune_digits.py'

work_dir = 'work_dirs/quickstart/seed0/finetune_logits'
model = dict(
    type='DistilledImageClassifier',
    teacher=dict(
        type='ClassifierTeacher',
        model=dict(
            type='ImageClassifier',
            backbone=dict(
                type='VisionTransformer',
                arch={{_base_.teacher_arch}},
                img_size=32,
                patch_size=4,
                out_type='avg_featmap',
                final_norm=False),
            head=dict(type='LinearClsHead', num_classes=10, in_channels=96)),
        checkpoint='work_dirs/quickstart/seed0/teacher_finetune/epoch_20.pth'),
    logit_loss=dict(
        type='LogitDistillationLoss', mode='soft', temperature=2.0))
