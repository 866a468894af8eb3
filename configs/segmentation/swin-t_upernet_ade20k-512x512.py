# mmseg's UPerNet on ADE20K from a distilled Swin-T of mmpretrain, 160,000
# iterations of 16 images, 8 GPUs x 2. Needs
# --cfg-options model.backbone.init_cfg.checkpoint=/path/of/epoch_100.pth
#
# All is mmseg's stock config but init_cfg and what refuses another file.

# Both functions are there where MMEngine evaluates this.
_base_ = osp.join(  # noqa: F821
    get_installed_path('mmseg'), '.mim/configs/swin',  # noqa: F821
    'swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512.py')
custom_imports = dict(imports=['dmae_mm'], allow_failed_imports=False)

model = dict(
    backbone=dict(
        # No such file: training stops until
        # --cfg-options model.backbone.init_cfg.checkpoint=... names one.
        init_cfg=dict(
            checkpoint='PATH_OF_THE_PRETRAINED_CHECKPOINT',
            prefix='backbone.')))
# Refuses a file that is not the backbone's.
custom_hooks = [dict(type='mmpretrain.PretrainedBackboneHook')]

default_hooks = dict(
    checkpoint=dict(type='mmpretrain.AtomicCheckpointHook'))
randomness = dict(seed=0, diff_rank_seed=True)
# For --auto-scale-lr.
auto_scale_lr = dict(base_batch_size=16, enable=False)
