# ImageNet with RandAugment (magnitude 9, deviation 0.5) and random erasing
# (0.25), bicubic: what mmpretrain fine-tunes Swin and MAE with.
_base_ = 'mmpretrain::_base_/datasets/imagenet_bs64_swin_224.py'

train_dataloader = dict(
    batch_size=128,
    # See EpochSeedHook.
    persistent_workers=False,
    worker_init_fn=dict(type='keep_worker_seed'),
    collate_fn=dict(type='default_collate'))
val_dataloader = dict(
    batch_size=128, collate_fn=dict(type='default_collate'))
test_dataloader = val_dataloader
