# Fine-tune a pre-trained ViT-B on ImageNet, with labels and the logits of a
# fine-tuned ViT-L. Needs
# --cfg-options model.backbone.init_cfg.checkpoint=/path/of/epoch_100.pth
#     model.teacher.checkpoint=/path/of/fine-tuned/vit-l.pth
_base_ = './vit-s_finetune-logits_in1k.py'

model = dict(
    backbone=dict(arch='b'),
    head=dict(in_channels=768),
    teacher=dict(
        model=dict(backbone=dict(arch='l'), head=dict(in_channels=1024)),
        # No such file: mmpretrain has no fine-tuned ViT-L of 224 pixels. A
        # fine-tuned file of FAIR's MAE is read as it is.
        checkpoint='PATH_OF_THE_FINETUNED_TEACHER'))
