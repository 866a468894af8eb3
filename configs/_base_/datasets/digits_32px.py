# Handwritten digits as image folders: write_digits() makes them.
# Digits have an orientation: crops, but no flips. A config on top of this says
# whether labels are wanted.
train_dataloader = dict(
    batch_size=64,
    num_workers=0,
    persistent_workers=False,
    sampler=dict(type='SeededSampler', shuffle=True),
    collate_fn=dict(type='default_collate'),
    dataset=dict(
        type='CustomDataset',
        data_root='data/digits/train',
        pipeline=[
            dict(type='SeedSample'),
            dict(type='LoadImageFromFile'),
            dict(
                type='RandomResizedCrop',
                scale=32,
                crop_ratio_range=(0.6, 1.0),
                interpolation='bicubic'),
            dict(type='PackInputs')
        ]))
