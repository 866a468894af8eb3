from .shard_dataset import ShardDataset
from .shard_sampler import ShardSampler

__all__ = ['ShardDataset', 'ShardSampler']
