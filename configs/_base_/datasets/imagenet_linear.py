# ImageNet with random resized crops and flips, bicubic, as in MAE's linear
# probe (mmpretrain's own probe interpolates bilinearly).
_base_ = 'mmpretrain::_base_/datasets/imagenet_bs32_pil_bicubic.py'

train_dataloader = dict(
    batch_size=2048,
    # The classifier's batch normalisation cannot train on a rest of one.
    drop_last=True,
    # See EpochSeedHook.
    persistent_workers=False,
    worker_init_fn=dict(type='keep_worker_seed'),
    collate_fn=dict(type='default_collate'))
val_dataloader = dict(
    batch_size=128, collate_fn=dict(type='default_collate'))
test_dataloader = val_dataloader
