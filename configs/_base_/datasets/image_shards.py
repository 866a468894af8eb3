# The images of image_folder.py, from shards: see docs/shards.md. A recipe
# trains from shards when its `_base_` names this file in place of that one.
_base_ = './image_folder.py'

train_dataloader = dict(
    # Few shards at a time, which a URL needs. On a disk,
    # dict(type='SeededSampler') draws from all of them.
    sampler=dict(_delete_=True, type='ShardSampler'),
    dataset=dict(
        _delete_=True,
        type='ShardDataset',
        # Or a URL, then with cache_dir='/local/disk'.
        data_root='data/imagenet_shards/train',
        pipeline={{_base_.train_pipeline}}))
