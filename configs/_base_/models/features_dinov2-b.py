# A student without decoder learns what DINOv2's ViT-B knows of whole images.
# A config on top of this names the backbone.
model = dict(
    type='FeatureDistiller',
    teacher=dict(
        type='TimmTeacher',
        model_name='vit_base_patch14_dinov2.lvd142m',
        pretrained=True,
        # 16 x 16 patches. Its own 518 px would be 37 x 37, at more than five
        # times the cost.
        img_size=224),
    # The last stage and the last block.
    aligned_layers=[(-1, -1)],
    distill_neck=dict(type='FeatureProjectionNeck', projector='linear'),
    # As in feature distillation (arXiv 2205.14141).
    distill_loss=dict(
        type='FeatureAlignmentLoss',
        criterion='smooth_L1',
        normalize='layer',
        beta=2.0))
