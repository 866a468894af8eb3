# Linear probe of timm's own ViT-T, frozen, pre-trained by vit-t-timm_dmae.
# Needs --cfg-options model.backbone.init_cfg.checkpoint=/path/of/epoch_100.pth
_base_ = './vit-t_linear_in1k.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='TimmViT',
        model_name='vit_tiny_patch16_224',
        out_type='cls_token',
        frozen=True,
        # No such file: training stops until an option names one.
        init_cfg=dict(
            type='Pretrained',
            checkpoint='PATH_OF_THE_PRETRAINED_CHECKPOINT')))
