# ViT-S learns from the image encoder of CLIP ViT-B, which has a mean and std
# of its own.
_base_ = './vit-s_dmae_in1k.py'

model = dict(
    teacher=dict(
        _delete_=True,
        type='TimmTeacher',
        # OpenAI's CLIP has QuickGELU. timm's vit_base_patch16_clip_224 loads
        # the same weights, but puts GELU in its place.
        model_name='vit_base_patch16_clip_quickgelu_224.openai',
        pretrained=True))
