# The classifier of fine-tuning, taught by the logits of a fine-tuned ViT. A
# config on top of this names both widths and the teacher's checkpoint.
_base_ = './vit-p16_finetune.py'

model = dict(
    type='DistilledImageClassifier',
    # Labels and teacher weigh the same, as in DeiT's hard distillation; the
    # weights, like the temperature, are our choice.
    head=dict(loss=dict(loss_weight=0.5)),
    teacher=dict(
        type='ClassifierTeacher',
        # As in the config with which mmpretrain fine-tunes MAE.
        model=dict(
            type='ImageClassifier',
            backbone=dict(
                type='VisionTransformer',
                img_size=224,
                patch_size=16,
                out_type='avg_featmap',
                final_norm=False),
            neck=None,
            head=dict(type='LinearClsHead', num_classes=1000))),
    logit_loss=dict(
        type='LogitDistillationLoss',
        mode='soft',
        temperature=1.0,
        loss_weight=0.5))
