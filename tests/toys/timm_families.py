"""Models of timm that can see visible patches alone, small."""
# One model of each family; small, but built by timm's own recipe for the name.
FAMILIES = {
    'MAE': 'vit_base_patch16_224.mae',
    'supervised': 'vit_base_patch16_224.augreg_in21k',
    'average pooling, no CLS': 'vit_base_patch16_gap_224',
    'DeiT': 'deit_small_patch16_224.fb_in1k',
    'DeiT III': 'deit3_small_patch16_224.fb_in22k_ft_in1k',
    'DeiT, distilled': 'deit_tiny_distilled_patch16_224.fb_in1k',
    'CLIP': 'vit_base_patch16_clip_224.openai',
    'SigLIP': 'vit_base_patch16_siglip_224.webli',
    'DINOv2': 'vit_small_patch14_dinov2.lvd142m',
    'DINOv2 with registers': 'vit_small_patch14_reg4_dinov2.lvd142m',
    'registers, no CLS': 'vit_so150m_patch16_reg4_map_256',
    'EVA': 'eva_giant_patch14_224.clip_ft_in1k',
    'EVA-02': 'eva02_tiny_patch14_224.mim_in22k',
    'DINOv3': 'vit_small_patch16_dinov3.lvd1689m',
    'rotary, learnt': 'vit_small_patch16_rope_mixed_224.naver_in1k',
    'rotary and absolute': 'vit_small_patch16_rope_ape_224.naver_in1k',
    'Perception Encoder': 'vit_pe_core_tiny_patch16_384.fb',
}
PREFIX_TOKENS = {
    'average pooling, no CLS': 0,
    'DeiT, distilled': 2,
    'SigLIP': 0,
    'DINOv2 with registers': 5,
    'registers, no CLS': 4,
    'DINOv3': 5,
}
NO_CLS = {'average pooling, no CLS', 'SigLIP', 'registers, no CLS'}
TOY = dict(embed_dim=32, depth=6, num_heads=2, num_classes=5)


def patch_size(family):
    return 14 if 'patch14' in FAMILIES[family] else 16


def toy_kwargs(family):
    """A grid of 4 x 4 patches."""
    return dict(TOY, img_size=4 * patch_size(family))
