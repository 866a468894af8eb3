# ImageNet with RandAugment (magnitude 9, deviation 0.5) and random erasing
# (0.25), bicubic: what mmpretrain fine-tunes Swin and MAE with.
_base_ = 'mmpretrain::_base_/datasets/imagenet_bs64_swin_224.py'

train_pipeline = [
    dict(type='SeedSample'),
    *_base_.train_pipeline,  # noqa: F821
]
train_dataloader = dict(
    batch_size=128,
    # What is drawn for an image depends on no worker: see ExactResumeHook.
    persistent_workers=True,
    sampler=dict(type='SeededSampler'),
    collate_fn=dict(type='default_collate'),
    dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=128, collate_fn=dict(type='default_collate'))
test_dataloader = val_dataloader
