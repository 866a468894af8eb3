# A classifier on the average of the patch tokens, all of it trained. A config
# on top of this names backbone.arch and, equal to its width,
# head.in_channels.
model = dict(
    type='ImageClassifier',
    backbone=dict(
        type='VisionTransformer',
        img_size=224,
        patch_size=16,
        drop_path_rate=0.15,
        out_type='avg_featmap',
        final_norm=False,
        # No such file: training stops until
        # --cfg-options model.backbone.init_cfg.checkpoint=... names one.
        init_cfg=dict(
            type='Pretrained',
            checkpoint='PATH_OF_THE_PRETRAINED_CHECKPOINT',
            prefix='backbone.')),
    neck=None,
    head=dict(
        type='LinearClsHead',
        num_classes=1000,
        loss=dict(
            type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'),
        init_cfg=[dict(type='TruncNormal', layer='Linear', std=2e-5)]),
    train_cfg=dict(augments=[
        dict(type='Mixup', alpha=0.8),
        dict(type='CutMix', alpha=1.0)
    ]))
