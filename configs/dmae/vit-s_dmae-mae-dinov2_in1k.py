# ViT-S learns from two teachers: MAE's own ViT-B and DINOv2's, both of timm.
# Their losses are summed; teacher_dropping=0.5 would drop the easier one of
# half of the images.
_base_ = './vit-s_dmae_in1k.py'

model = dict(
    # Of the single teacher below, nothing is left.
    teacher=None,
    aligned_layers=[],
    distill_neck=None,
    distill_loss=None,
    teachers=dict(
        mae=dict(
            teacher=dict(
                type='TimmTeacher',
                model_name='vit_base_patch16_224.mae',
                pretrained=True),
            aligned_layers=[(0.75, 0.75)]),
        dinov2=dict(
            teacher=dict(
                type='TimmTeacher',
                model_name='vit_base_patch14_dinov2.lvd142m',
                pretrained=True),
            aligned_layers=[(0.75, 0.75)])))
