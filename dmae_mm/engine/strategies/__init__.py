from .fully_sharded_strategy import FullyShardedStrategy

__all__ = ['FullyShardedStrategy']
