# Semantic segmentation of handwritten digits on photographs
# (studies/transfer_study.py writes them) with the quick start's student and a
# linear head. Another student:
# --cfg-options model.backbone.init_cfg.checkpoint=/path/of/it.pth

# Both functions are there where MMEngine evaluates this.
_base_ = [
    '../_base_/models/digits_archs.py',
    '../_base_/schedules/digits_20e.py',
    osp.join(get_installed_path('mmseg'),  # noqa: F821
             '.mim/configs/_base_/default_runtime.py'),
]
custom_imports = dict(imports=['dmae_mm'], allow_failed_imports=False)

work_dir = 'work_dirs/transfer_study/seed0/dmae'
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        mean=[127.5] * 3,
        std=[127.5] * 3,
        size=(48, 48),
        pad_val=0,
        seg_pad_val=255),
    backbone=dict(
        type='mmpretrain.VisionTransformer',
        arch={{_base_.student_arch}},
        img_size=48,
        patch_size=4,
        out_type='featmap',
        init_cfg=dict(
            type='Pretrained',
            checkpoint='work_dirs/quickstart/seed0/dmae/epoch_20.pth',
            prefix='backbone.')),
    decode_head=dict(
        type='FCNHead',
        in_channels=48,
        channels=48,
        num_convs=0,
        concat_input=False,
        dropout_ratio=0.,
        # The digits, and what is none.
        num_classes=11,
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', loss_weight=1.0)),
    test_cfg=dict(mode='whole'))
# Refuses a file that is not the backbone's.
custom_hooks = [dict(type='mmpretrain.PretrainedBackboneHook')]

pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs')
]
dataset = dict(
    type='BaseSegDataset',
    data_root='work_dirs/transfer_study/data',
    img_suffix='.png',
    metainfo=dict(
        classes=('none', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9'),
        palette=[[0, 0, 0], [230, 25, 75], [60, 180, 75], [255, 225, 25],
                 [0, 130, 200], [245, 130, 48], [145, 30, 180],
                 [70, 240, 240], [240, 50, 230], [210, 245, 60],
                 [250, 190, 212]]),
    pipeline=pipeline)
train_dataloader = dict(
    # With 32, random weights and plain MAE learned little in 20 epochs.
    batch_size=16,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        **dataset,
        data_prefix=dict(
            img_path='images/train', seg_map_path='annotations/train')))
val_dataloader = dict(
    batch_size=16,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        **dataset,
        data_prefix=dict(
            img_path='images/test', seg_map_path='annotations/test')))
test_dataloader = val_dataloader
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator

optim_wrapper = dict(
    optimizer=dict(betas=(0.9, 0.999)),
    paramwise_cfg=dict(flat_decay_mult=0.))
train_cfg = dict(by_epoch=True, max_epochs=20, val_interval=20)
val_cfg = dict()
test_cfg = dict()
log_processor = dict(by_epoch=True)
default_hooks = dict(
    logger=dict(type='LoggerHook', interval=20),
    checkpoint=dict(type='mmpretrain.AtomicCheckpointHook', interval=20))
randomness = dict(seed=0)
