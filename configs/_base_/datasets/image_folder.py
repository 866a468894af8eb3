# All images under one folder, in sub-folders or not; labels are not used.
# Another folder is one option away:
# --cfg-options train_dataloader.dataset.data_root=/path/to/images
data_preprocessor = dict(
    type='SelfSupDataPreprocessor',
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    to_rgb=True)

train_pipeline = [
    dict(type='SeedSample'),
    # An error for a broken file, unless SkippedImagesHook lets it be skipped.
    dict(type='LoadImageOrSkip'),
    dict(
        type='FastRandomResizedCrop',
        scale=224,
        crop_ratio_range=(0.2, 1.0),
        interpolation='bicubic',
        flip_prob=0.5),
    dict(
        type='PackInputs',
        meta_keys=('img_path', 'sample_idx', 'skipped_images'))
]

train_dataloader = dict(
    batch_size=128,
    num_workers=8,
    # What is drawn for an image depends on no worker: see ExactResumeHook.
    persistent_workers=True,
    # The last, smaller batch is used: a folder with fewer images than a batch
    # would give none otherwise. On ImageNet with 8 GPUs it also makes 1252
    # batches an epoch, a multiple of the 4 that are accumulated to one step.
    drop_last=False,
    sampler=dict(type='SeededSampler', shuffle=True),
    collate_fn=dict(type='default_collate'),
    dataset=dict(
        type='CustomDataset',
        data_root='data/imagenet/train',
        with_label=False,
        extensions=('.jpg', '.jpeg', '.png', '.ppm', '.bmp', '.pgm', '.tif',
                    '.tiff', '.webp'),
        pipeline=train_pipeline))
