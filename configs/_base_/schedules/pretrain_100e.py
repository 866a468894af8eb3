# 100 epochs at 4096 images a step: 8 GPUs x 128 images x 4 accumulated
# batches.
optim_wrapper = dict(
    # float16 with dynamic loss scaling. GPUs of compute capability 8.0 or
    # newer can do without its narrow range:
    # --cfg-options optim_wrapper.dtype=bfloat16
    type='AmpOptimWrapper',
    accumulative_counts=4,
    optimizer=dict(
        type='AdamW',
        lr=1.5e-4 * 4096 / 256,
        betas=(0.9, 0.95),
        weight_decay=0.05,
        fused=True),
    # Two groups instead of one for each parameter, so that the fused
    # optimizer starts a few kernels and not hundreds.
    constructor='MergedGroupsConstructor',
    # No decay on one-dimensional parameters, which are all biases and norms.
    # CLS and mask token do decay: that is the rule of MAE's public code, while
    # mmpretrain's MAE configs exempt them.
    paramwise_cfg=dict(flat_decay_mult=0.))

param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=1e-4,
        by_epoch=True,
        begin=0,
        end=20,
        convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR',
        T_max=80,
        eta_min=0.,
        by_epoch=True,
        begin=20,
        end=100,
        convert_to_iter_based=True)
]

train_cfg = dict(type='ResumableTrainLoop', max_epochs=100)

# For --auto-scale-lr: the images of an optimizer step that lr is meant for,
# all processes and accumulated batches together.
auto_scale_lr = dict(base_batch_size=4096, enable=False)
