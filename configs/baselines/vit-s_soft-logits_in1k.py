# A ViT-S from scratch learns from labels and the logits of a fine-tuned
# ViT-B: 100 epochs of the recipe of fine-tuning. The schedule is our choice.
_base_ = '../benchmarks/vit-s_finetune-logits_in1k.py'

model = dict(
    backbone=dict(
        # Nothing is loaded. Initialised as mmpretrain's DeiT.
        init_cfg=[
            dict(type='TruncNormal', layer='Linear', std=.02),
            dict(type='Constant', layer='LayerNorm', val=1., bias=0.)
        ]))

# One learning rate for all layers.
optim_wrapper = dict(paramwise_cfg=dict(layer_decay_rate=1.0))
