# configs/dmae/vit-s_dmae_in1k.py, from shards: see docs/shards.md. Any other
# recipe in the place of _base_ trains from shards with the same lines.
_base_ = '../dmae/vit-s_dmae_in1k.py'

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
