# A classifier on the average of a map, all of it trained. A config on top of
# this names the backbone and, equal to its width, head.in_channels.
model = dict(
    type='ImageClassifier',
    backbone=dict(
        # No such file: training stops until
        # --cfg-options model.backbone.init_cfg.checkpoint=... names one.
        init_cfg=dict(
            type='Pretrained',
            checkpoint='PATH_OF_THE_PRETRAINED_CHECKPOINT',
            prefix='backbone.')),
    neck=dict(type='GlobalAveragePooling'),
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
