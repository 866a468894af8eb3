# ViT-B learns from the logits of a fine-tuned ViT-L. Needs --cfg-options
# model.teacher.checkpoint=/path/of/fine-tuned/vit-l.pth
_base_ = './vit-s_soft-logits_in1k.py'

model = dict(
    backbone=dict(arch='b'),
    head=dict(in_channels=768),
    teacher=dict(
        model=dict(backbone=dict(arch='l'), head=dict(in_channels=1024)),
        # No such file: see configs/benchmarks/vit-b_finetune-logits_in1k.py.
        checkpoint='PATH_OF_THE_FINETUNED_TEACHER'))
