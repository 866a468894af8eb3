# timm's own ViT-T learns from the same teacher as ViT-T. What it saves has
# timm's names. Other models: --cfg-options model.backbone.model_name=... and,
# equal to its width, model.neck.embed_dim=...
_base_ = './vit-t_dmae_in1k.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='MaskedTimmViT',
        model_name='vit_tiny_patch16_224',
        mask_ratio=0.75))
