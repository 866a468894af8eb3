# ViT-B learns from a fine-tuned ViT-L. Needs --cfg-options
# model.teacher.checkpoint=/path/of/fine-tuned/vit-l.pth
_base_ = './vit-s_features_in1k.py'

model = dict(
    backbone=dict(arch='b'),
    head=dict(in_channels=768),
    # No such file: see configs/benchmarks/vit-b_finetune-logits_in1k.py.
    teacher=dict(
        backbone=dict(arch='l'), checkpoint='PATH_OF_THE_FINETUNED_TEACHER'))
