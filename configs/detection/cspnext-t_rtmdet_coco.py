# mmdet's RTMDet-tiny on COCO, 300 epochs, 8 GPUs x 32, from a distilled
# CSPNeXt. Needs
# --cfg-options model.backbone.init_cfg.checkpoint=/path/of/epoch_100.pth
#
# mmpretrain has no CSPNeXt: the student is mmdet's own, of the stock config's
# size, model.backbone=dict(type='mmdet.CSPNeXt', deepen_factor=0.167,
# widen_factor=0.375, norm_cfg=dict(type='BN')). Without norm_cfg, its batch
# norms have another epsilon than RTMDet's.
#
# Mosaics of cached images depend on all images before: no exact resume.
_base_ = 'mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py'
custom_imports = dict(imports=['dmae_mm'], allow_failed_imports=False)

model = dict(
    # The stock config gives BGR; a student has seen RGB.
    data_preprocessor=dict(
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True),
    # No such file: training stops until
    # --cfg-options model.backbone.init_cfg.checkpoint=... names one.
    backbone=dict(
        init_cfg=dict(checkpoint='PATH_OF_THE_PRETRAINED_CHECKPOINT')))

custom_hooks = [
    *_base_.custom_hooks,  # noqa: F821
    dict(type='mmpretrain.PretrainedBackboneHook')
]
default_hooks = dict(
    checkpoint=dict(type='mmpretrain.AtomicCheckpointHook'))
randomness = dict(seed=0, diff_rank_seed=True)
