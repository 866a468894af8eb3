# HiViT-T, a hierarchical student, learns from the teacher of ViT-S and is as
# wide as ViT-S. Block 7 of the 10 in its main stage is aligned.
_base_ = './vit-s_dmae_in1k.py'

model = dict(
    backbone=dict(
        type='MAEHiViT',
        arch='tiny',
        # The default is one list, which all MAEHiViTs share and change.
        out_indices=[9],
        # It initialises itself and would ignore the base's init_cfg.
        init_cfg=None))
