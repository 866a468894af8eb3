# Parameters, gradients and optimizer state split over all processes. Mixed
# precision is the strategy's: the config's optim_wrapper must be a plain one,
# dict(type='OptimWrapper').
runner_type = 'FlexibleRunner'
strategy = dict(
    type='FullyShardedStrategy', block_dtype='bfloat16', shard_teacher=True)
