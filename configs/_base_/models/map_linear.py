# A linear classifier on the average of a frozen backbone's map. A config on
# top of this names the backbone, its frozen_stages and, equal to its width,
# in_channels.
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
        loss=dict(type='CrossEntropyLoss'),
        init_cfg=[dict(type='TruncNormal', layer='Linear', std=0.01)]))
