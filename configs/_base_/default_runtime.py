_base_ = 'mmpretrain::_base_/default_runtime.py'

custom_imports = dict(imports=['dmae_mm'], allow_failed_imports=False)
default_scope = 'mmpretrain'

default_hooks = dict(
    checkpoint=dict(type='CheckpointHook', interval=1, max_keep_ckpts=3))
custom_hooks = [
    dict(type='EpochSeedHook'),
    dict(type='TeacherHook'),
    dict(type='PretrainedBackboneHook')
]

randomness = dict(seed=0, diff_rank_seed=True)
