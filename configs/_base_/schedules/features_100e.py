# 100 epochs at 1024 images a step: 8 GPUs x 128 images. AdamW and a cosine for
# all students, convolutional ones as well. This schedule is our choice; it was
# not tuned.
optim_wrapper = dict(
    # float16 with dynamic loss scaling. GPUs of compute capability 8.0 or
    # newer can do without its narrow range:
    # --cfg-options optim_wrapper.dtype=bfloat16
    type='AmpOptimWrapper',
    optimizer=dict(
        type='AdamW',
        lr=2.5e-4 * 1024 / 256,
        betas=(0.9, 0.999),
        weight_decay=0.05,
        fused=True),
    clip_grad=dict(max_norm=5.0),
    constructor='MergedGroupsConstructor',
    # No decay on one-dimensional parameters, which are all biases and norms.
    paramwise_cfg=dict(flat_decay_mult=0.))

param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=1e-4,
        by_epoch=True,
        begin=0,
        end=5,
        convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR',
        T_max=95,
        eta_min=0.,
        by_epoch=True,
        begin=5,
        end=100,
        convert_to_iter_based=True)
]

train_cfg = dict(type='ResumableTrainLoop', max_epochs=100)

# For --auto-scale-lr.
auto_scale_lr = dict(base_batch_size=1024, enable=False)
