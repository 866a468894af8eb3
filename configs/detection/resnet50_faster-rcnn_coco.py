# mmdet's Faster R-CNN on COCO, 12 epochs, from a distilled ResNet-50 of
# mmpretrain. Needs
# --cfg-options model.backbone.init_cfg.checkpoint=/path/of/epoch_100.pth
#
# All is mmdet's stock config but init_cfg and what refuses another file. As
# there, the stem and the first stage stay as they are, and batch norms keep
# the statistics of the file.
_base_ = [
    'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py',
    '../_base_/detection.py',
]

model = dict(backbone=dict(init_cfg={{_base_.pretrained}}))

# A sample has a seed of its own, and a run resumes exactly at the ends of
# epochs: see ExactResumeHook.
train_dataloader = dict(
    sampler=dict(type='mmpretrain.SeededSampler'),
    dataset=dict(pipeline=[
        dict(type='mmpretrain.SeedSample'),
        *_base_.train_pipeline,  # noqa: F821
    ]))
default_hooks = dict(
    checkpoint=dict(type='mmpretrain.AtomicCheckpointHook'))
