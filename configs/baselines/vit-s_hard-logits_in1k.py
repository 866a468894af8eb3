# As vit-s_soft-logits_in1k.py, but what the fine-tuned ViT-B teaches is the
# class that it finds most likely, as in DeiT.
_base_ = './vit-s_soft-logits_in1k.py'

model = dict(logit_loss=dict(mode='hard'))
