# A ViT-S from scratch learns from labels and, as in DMAE but of whole images,
# from block outputs of a fine-tuned ViT-B. The schedule is our choice.
_base_ = './vit-s_soft-logits_in1k.py'

model = dict(
    head=dict(loss=dict(loss_weight=1.0)),
    teacher=dict(
        _delete_=True,
        # Without the blocks behind the aligned one, and without its head.
        type='MMPretrainTeacher',
        backbone=dict(type='VisionTransformer', arch='b', patch_size=16),
        checkpoint='https://mmassets.onedl.ai/mmselfsup/1.x/mae/'
        'mae_vit-base-p16_8xb512-fp16-coslr-1600e_in1k/'
        'vit-base-p16_ft-8xb128-coslr-100e_in1k/'
        'vit-base-p16_ft-8xb128-coslr-100e_in1k_20220825-cf70aa21.pth'),
    logit_loss=None,
    # As in configs/_base_/models/dmae_vit-p16.py, of which projector and
    # criterion are the defaults.
    aligned_layers=[(0.75, 0.75)])
