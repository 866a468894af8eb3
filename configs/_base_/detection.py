# What the configs for COCO share.
custom_imports = dict(imports=['dmae_mm'], allow_failed_imports=False)

# No such file: training stops until
# --cfg-options model.backbone.init_cfg.checkpoint=... names one.
pretrained = dict(
    type='Pretrained',
    checkpoint='PATH_OF_THE_PRETRAINED_CHECKPOINT',
    prefix='backbone.')

# In the place of mmdet's. No decay on norms, CLS token and position embedding.
layer_decay = dict(
    type='AmpOptimWrapper',
    optimizer=dict(
        type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.1),
    constructor='BackboneLayerDecayConstructor',
    paramwise_cfg=dict(
        layer_decay_rate=0.7,
        norm_decay_mult=0.,
        custom_keys={
            '.cls_token': dict(decay_mult=0.),
            '.pos_embed': dict(decay_mult=0.)
        }))

custom_hooks = [
    dict(type='mmpretrain.ExactResumeHook'),
    dict(type='mmpretrain.PretrainedBackboneHook')
]
randomness = dict(seed=0, diff_rank_seed=True)
