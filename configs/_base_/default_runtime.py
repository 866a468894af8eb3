_base_ = 'mmpretrain::_base_/default_runtime.py'

custom_imports = dict(imports=['dmae_mm'], allow_failed_imports=False)
default_scope = 'mmpretrain'

default_hooks = dict(
    # Stops when a loss is not finite. max_skips leaves out that many optimizer
    # steps first.
    runtime_info=dict(type='FiniteLossHook', max_skips=0),
    # Says at the start if images per step or schedule do not fit.
    learning_rate=dict(type='LearningRateHook'),
    progress_bar=dict(type='ProgressBarHook'),
    # To save inside epochs as well: default_hooks.checkpoint.
    # mid_epoch_interval=500, in iterations.
    checkpoint=dict(
        type='AtomicCheckpointHook', interval=1, max_keep_ckpts=3))
custom_hooks = [
    dict(type='ExactResumeHook'),
    dict(type='PreemptionHook'),
    dict(type='TeacherHook'),
    dict(type='PretrainedBackboneHook'),
    dict(type='SkippedImagesHook'),
    dict(type='CalibrationHook'),
    # The trained student, for everybody else: student.safetensors.
    dict(type='StudentFileHook')
]

randomness = dict(seed=0, diff_rank_seed=True)
