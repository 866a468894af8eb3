# As vit-b_soft-logits_in1k.py, but what the fine-tuned ViT-L teaches is the
# class that it finds most likely, as in DeiT.
_base_ = './vit-b_soft-logits_in1k.py'

model = dict(logit_loss=dict(mode='hard'))
