# ViT-S learns from DINOv2's ViT-B. The teacher's patches are 14 px wide: it
# sees the same 14 x 14 patches in images of 196 px.
_base_ = './vit-s_dmae_in1k.py'

model = dict(
    teacher=dict(
        _delete_=True,
        type='TimmTeacher',
        model_name='vit_base_patch14_dinov2.lvd142m',
        pretrained=True))
