# A ViT of 16-pixel patches learns from a larger one. A config on top of this
# names the student (backbone.arch and, equal to its width, neck.embed_dim)
# and the teacher (arch and checkpoint).

# One entry per module instead of one for the whole model: the modules that
# only a run with a teacher has then draw no random number between the
# student's, so that its control without a teacher starts from the same
# weights. Projectors keep PyTorch's default initialisation, as in the paper.
init_cfg = [
    dict(type='Xavier', layer='Linear', distribution='uniform'),
    dict(type='Constant', layer='LayerNorm', val=1.0, bias=0.0)
]

model = dict(
    type='DMAE',
    backbone=dict(
        type='MAEViT', patch_size=16, mask_ratio=0.75, init_cfg=init_cfg),
    neck=dict(
        type='MAEPretrainDecoder',
        patch_size=16,
        decoder_embed_dim=512,
        decoder_depth=8,
        decoder_num_heads=16,
        init_cfg=init_cfg),
    head=dict(
        type='MAEPretrainHead',
        # The paper's recipe predicts raw pixels; mmpretrain's MAE configs
        # predict pixels normalised by patch.
        norm_pix=False,
        patch_size=16,
        loss=dict(type='PixelReconstructionLoss', criterion='L2')),
    teacher=dict(
        type='MMPretrainTeacher', backbone=dict(type='MAEViT', patch_size=16)),
    # Three quarters of each depth: block 8 of 12, block 17 of 24, 0-based.
    aligned_layers=[(0.75, 0.75)],
    distill_neck=dict(type='FeatureProjectionNeck', projector='linear'),
    distill_loss=dict(
        type='FeatureAlignmentLoss',
        criterion='L1',
        normalize=True,
        loss_weight=1.0))
