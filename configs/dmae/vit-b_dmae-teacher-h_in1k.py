# ViT-B learns from the ViT-H that MAE pre-trained for 1600 epochs. The
# teacher's patches are 14 px wide: it sees the same 14 x 14 patches in images
# of 196 px. Student block 8 and teacher block 23 are aligned.
_base_ = './vit-b_dmae_in1k.py'

model = dict(
    teacher=dict(
        backbone=dict(arch='h', patch_size=14),
        # "p16" is the name of the file; its patches are 14 px.
        checkpoint='https://mmassets.onedl.ai/mmselfsup/1.x/mae/'
        'mae_vit-huge-p16_8xb512-fp16-coslr-1600e_in1k/'
        'mae_vit-huge-p16_8xb512-fp16-coslr-1600e_in1k_20220916-ff848775.pth'))
