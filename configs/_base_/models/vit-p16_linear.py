# A linear classifier on the CLS token of a frozen backbone, as in MAE. A
# config on top of this names backbone.arch and, equal to its width,
# neck.input_features and head.in_channels.
model = dict(
    type='ImageClassifier',
    backbone=dict(
        type='VisionTransformer',
        img_size=224,
        patch_size=16,
        # All 12 blocks, and with them the embeddings and the final norm.
        frozen_stages=12,
        out_type='cls_token',
        final_norm=True,
        # No such file: training stops until
        # --cfg-options model.backbone.init_cfg.checkpoint=... names one.
        init_cfg=dict(
            type='Pretrained',
            checkpoint='PATH_OF_THE_PRETRAINED_CHECKPOINT',
            prefix='backbone.')),
    # Batch normalisation without learnable scale and shift.
    neck=dict(type='ClsBatchNormNeck'),
    head=dict(
        type='VisionTransformerClsHead',
        num_classes=1000,
        loss=dict(type='CrossEntropyLoss'),
        init_cfg=[dict(type='TruncNormal', layer='Linear', std=0.01)]))
