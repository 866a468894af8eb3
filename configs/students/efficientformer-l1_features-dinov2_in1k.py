# EfficientFormer-L1 learns the features of DINOv2's ViT-B.
_base_ = [
    '../_base_/models/features_dinov2-b.py',
    '../_base_/datasets/image_folder.py',
    '../_base_/schedules/features_100e.py',
    '../_base_/default_runtime.py',
]

model = dict(backbone=dict(type='EfficientFormer', arch='l1'))
