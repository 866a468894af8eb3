# ImageNet with random resized crops and flips, bicubic, as in MAE's linear
# probe (mmpretrain's own probe interpolates bilinearly).
_base_ = 'mmpretrain::_base_/datasets/imagenet_bs32_pil_bicubic.py'

train_pipeline = [
    dict(type='SeedSample'),
    *_base_.train_pipeline,  # noqa: F821
]
train_dataloader = dict(
    batch_size=2048,
    # The classifier's batch normalisation cannot train on a rest of one.
    drop_last=True,
    # What is drawn for an image depends on no worker: see ExactResumeHook.
    persistent_workers=True,
    sampler=dict(type='SeededSampler'),
    collate_fn=dict(type='default_collate'),
    dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=128, collate_fn=dict(type='default_collate'))
test_dataloader = val_dataloader
