# Fine-tune a pre-trained ViT-S on ImageNet, with labels and the logits of a
# ViT-B that mmpretrain fine-tuned after MAE. Needs
# --cfg-options model.backbone.init_cfg.checkpoint=/path/of/epoch_100.pth
_base_ = './vit-s_finetune_in1k.py'

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
                arch='b',
                img_size=224,
                patch_size=16,
                out_type='avg_featmap',
                final_norm=False),
            neck=None,
            head=dict(
                type='LinearClsHead', num_classes=1000, in_channels=768)),
        checkpoint='https://mmassets.onedl.ai/mmselfsup/1.x/mae/'
        'mae_vit-base-p16_8xb512-fp16-coslr-1600e_in1k/'
        'vit-base-p16_ft-8xb128-coslr-100e_in1k/'
        'vit-base-p16_ft-8xb128-coslr-100e_in1k_20220825-cf70aa21.pth'),
    logit_loss=dict(
        type='LogitDistillationLoss',
        mode='soft',
        temperature=1.0,
        loss_weight=0.5))
