# Semantic segmentation on ADE20K (data/ade/ADEChallengeData2016) with UPerNet
# on a pre-trained ViT-S: 160,000 iterations of 16 images, 8 GPUs x 2. Needs
# --cfg-options model.backbone.init_cfg.checkpoint=/path/of/epoch_100.pth
#
# Rates, decay, drop path, schedule, crops and sliding windows are those of
# mmseg's mae-base_upernet config, for T, S and B alike. Our choices: no weight
# decay on CLS token and position embedding, features of evenly spread blocks,
# mixed precision, and, for T and S, 512 channels in the head, as in mmseg's
# DeiT-S.

# Both functions are there where MMEngine evaluates this.
_base_ = [
    osp.join(get_installed_path('mmseg'), '.mim/configs/_base_', name)  # noqa: F821, E501
    for name in ('models/upernet_mae.py', 'datasets/ade20k.py',
                 'default_runtime.py', 'schedules/schedule_160k.py')
]
custom_imports = dict(imports=['dmae_mm'], allow_failed_imports=False)

model = dict(
    data_preprocessor=dict(size=(512, 512)),
    backbone=dict(
        _delete_=True,
        type='mmpretrain.VisionTransformer',
        arch='deit-s',
        img_size=512,
        patch_size=16,
        drop_path_rate=0.1,
        out_type='featmap',
        out_indices=[2, 5, 8, 11],
        final_norm=False,
        # No such file: training stops until
        # --cfg-options model.backbone.init_cfg.checkpoint=... names one.
        init_cfg=dict(
            type='Pretrained',
            checkpoint='PATH_OF_THE_PRETRAINED_CHECKPOINT',
            prefix='backbone.')),
    neck=dict(embed_dim=384),
    decode_head=dict(in_channels=[384] * 4, num_classes=150),
    auxiliary_head=dict(in_channels=384, num_classes=150),
    test_cfg=dict(
        _delete_=True, mode='slide', crop_size=(512, 512), stride=(341, 341)))
# Refuses a file that is not the backbone's.
custom_hooks = [dict(type='mmpretrain.PretrainedBackboneHook')]

optim_wrapper = dict(
    _delete_=True,
    type='AmpOptimWrapper',
    loss_scale='dynamic',
    optimizer=dict(
        type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05),
    constructor='BackboneLayerDecayConstructor',
    paramwise_cfg=dict(
        layer_decay_rate=0.65,
        flat_decay_mult=0.,
        custom_keys={
            '.cls_token': dict(decay_mult=0.),
            '.pos_embed': dict(decay_mult=0.)
        }))
param_scheduler = [
    dict(
        type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=1500),
    dict(
        type='PolyLR',
        eta_min=0.0,
        power=1.0,
        begin=1500,
        end=160000,
        by_epoch=False)
]

train_dataloader = dict(batch_size=2)

default_hooks = dict(
    checkpoint=dict(type='mmpretrain.AtomicCheckpointHook'))
randomness = dict(seed=0, diff_rank_seed=True)
# For --auto-scale-lr.
auto_scale_lr = dict(base_batch_size=16, enable=False)
