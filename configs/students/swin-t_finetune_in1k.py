# Fine-tune a pre-trained Swin-T on ImageNet. Needs
# --cfg-options model.backbone.init_cfg.checkpoint=/path/of/epoch_100.pth
_base_ = [
    '../_base_/models/map_finetune.py',
    '../_base_/datasets/imagenet_finetune.py',
    '../_base_/schedules/finetune_100e.py',
    '../_base_/default_runtime.py',
]

model = dict(
    # Its defaults: arch='tiny', drop_path_rate=0.1.
    backbone=dict(type='SwinTransformer'),
    head=dict(in_channels=768))

# One learning rate for all layers, a quarter of that of ViTs with layer-wise
# decay: not every backbone knows its layers. Our choice; it was not tuned.
optim_wrapper = dict(
    optimizer=dict(lr=1.25e-4 * 1024 / 256),
    constructor='DefaultOptimWrapperConstructor',
    paramwise_cfg=dict(_delete_=True, flat_decay_mult=0.))
