# 90 epochs at 16384 images a step: 8 GPUs x 2048 images.
optim_wrapper = dict(
    type='AmpOptimWrapper',
    optimizer=dict(
        type='LARS', lr=0.1 * 16384 / 256, momentum=0.9, weight_decay=0.))

param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=1e-4,
        by_epoch=True,
        begin=0,
        end=10,
        convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR',
        T_max=80,
        eta_min=0.,
        by_epoch=True,
        begin=10,
        end=90,
        convert_to_iter_based=True)
]

train_cfg = dict(
    type='ResumableTrainLoop', max_epochs=90, val_interval=1)
val_cfg = dict()
test_cfg = dict()

# For --auto-scale-lr.
auto_scale_lr = dict(base_batch_size=16384, enable=False)
