# Fine-tune timm's own ViT-T on ImageNet, pre-trained by vit-t-timm_dmae. Needs
# --cfg-options model.backbone.init_cfg.checkpoint=/path/of/epoch_100.pth
_base_ = './vit-t_finetune_in1k.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='TimmViT',
        model_name='vit_tiny_patch16_224',
        model_kwargs=dict(drop_path_rate=0.15),
        out_type='avg_featmap',
        # No such file: training stops until an option names one.
        init_cfg=dict(
            type='Pretrained',
            checkpoint='PATH_OF_THE_PRETRAINED_CHECKPOINT')))
