# The quick start's student as a ViT of timm.
_base_ = 'vit-student_dmae_digits.py'

work_dir = 'work_dirs/students/timm'
model = dict(
    backbone=dict(
        _delete_=True,
        type='MaskedTimmViT',
        model_name='vit_tiny_patch16_224',
        img_size=32,
        model_kwargs=dict(patch_size=4, embed_dim=48, depth=4, num_heads=3)))
