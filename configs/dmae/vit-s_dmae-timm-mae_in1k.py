# ViT-S learns from MAE's own ViT-B, which timm hosts.
_base_ = './vit-s_dmae_in1k.py'

model = dict(
    teacher=dict(
        _delete_=True,
        type='TimmTeacher',
        model_name='vit_base_patch16_224.mae',
        pretrained=True))
