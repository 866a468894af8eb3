# 20 epochs, 2 of them warm-up.
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=2e-3, weight_decay=0.05))
param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=1e-3,
        end=2,
        convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR',
        begin=2,
        end=20,
        eta_min=0.0,
        convert_to_iter_based=True)
]
