import re
from typing import Optional

from ..tensor_file import Tensors

# Why a model does not teach.
_NO_TOKENS = 'which has no tokens of patches to align a student with'
_WHOLE_ONLY = 'which cannot run on visible patches alone'
_BEIT = ("which timm cannot run on visible patches alone. mmpretrain's file "
         'of the same model can teach: MMPretrainTeacher(backbone=dict(type='
         "'BEiTViT', ...))")
# What wraps a network, in front of its names.
_WRAPPED = (r'(?:(?:backbone|model|encoder|visual|trunk|module|net|'
            r'image_encoder|vision_encoder)\.)*')
_BLOCK = r'blocks\.\d+'
# How a name in a file begins behind that, what the file is, and why it does
# not teach. The first that fits counts.
_KINDS = (
    (r'.*\.(lora_[AB]|lora_(up|down)|hada_w\d_[ab]|lokr_w\d|adapter_\w+)\b',
     'an adapter (such as LoRA)',
     'which holds changes to a model and not the model. Merge it into its '
     'model, and give the file of that'),
    (r'(diffusion_model|first_stage_model|down_blocks|up_blocks|mid_block)\.',
     'a diffusion model, or its U-Net or autoencoder', _NO_TOKENS),
    (rf'{_BLOCK}\.adaLN_modulation\.', 'a diffusion transformer',
     'which sees noise and not images'),
    (rf'{_BLOCK}\.attn\.rel_pos_[hw]|mask_decoder\.',
     'a SAM, its image encoder or another one with windows and relative '
     'positions', _WHOLE_ONLY),
    (rf'layers\.\d+\.{_BLOCK}\.attn\.'
     r'(relative_position_bias_table|logit_scale)|'
     r'features\.\d+\.\d+\.attn\.(relative_position_bias_table|logit_scale)|'
     rf'stages\.\d+\.{_BLOCK}\.attn\.w_msa\.|swin(v2)?\.encoder\.',
     'a Swin transformer', _WHOLE_ONLY),
    (rf'{_BLOCK}\.attn\.relative_position_bias_table|'
     r'(beit|data2vec_vision)\.(encoder|embeddings)\.',
     'a BEiT or data2vec', _BEIT),
    (r'downsample_layers\.0\.0\.|stages\.\d+\.\d+\.(dwconv|depthwise_conv)\.|'
     rf'stages\.\d+\.{_BLOCK}\.conv_dw\.|features\.1\.0\.layer_scale|'
     r'convnext(v2)?\.encoder\.',
     'a ConvNeXt', _NO_TOKENS),
    (r'layer1\.0\.(conv\d|bn\d)\.|resnet\.(encoder|embedder)\.', 'a ResNet',
     _NO_TOKENS),
    (rf'conv_stem\.|{_BLOCK}\.\d+\.conv_(dw|pw)\.|'
     r'features\.\d+\.(\d+\.)?(block|conv)\.',
     'an EfficientNet or MobileNet', _NO_TOKENS),
    (r'features\.\d+\.weight', 'a VGG or AlexNet', _NO_TOKENS),
    (rf'{_BLOCK}\.(mlp_tokens|linear_tokens)\.', 'an MLP-Mixer',
     _WHOLE_ONLY),
)
_SHARED_POSITIONS = 'rel_pos_bias.relative_position_bias_table'
_TEXT = re.compile(r'((text|text_model|transformer|bert|embeddings|module|'
                   r'model)\.)*(token_embedding|embed_tokens|wte|'
                   r'word_embeddings)\.weight')
_OF_IMAGES = re.compile(r'(.+\.)?(visual|vision\w*|image\w*|patch_embed\w*)\.')


def what_it_is(tensors: Tensors) -> Optional[str]:
    """Name a model that is no plain vision transformer of images.

    Args:
        tensors (dict[str, torch.Tensor]): All of a file.

    Returns:
        str | None: What it is, and why it does not teach: 'a ResNet, which
        has no ...'. None where the names do not tell.
    """
    for pattern, kind, reason in _KINDS:
        names = re.compile(f'{_WRAPPED}(?:{pattern})')
        if any(map(names.match, tensors)):
            return f'{kind}, {reason}'
    # mmpretrain's BEiTViT has this name as well, but layers and no blocks.
    if any(name.endswith(_SHARED_POSITIONS) for name in tensors) and any(
            name.endswith('blocks.0.norm1.weight') for name in tensors):
        return f'a BEiT or data2vec, {_BEIT}'
    if any(tensor.dim() == 5 and name.endswith('patch_embed.proj.weight')
           for name, tensor in tensors.items()):
        return ('a vision transformer of videos, whose patches reach over '
                'several frames')
    if any(map(_TEXT.match, tensors)) and not any(
            map(_OF_IMAGES.match, tensors)):
        return 'a model of text, which sees no images'
    return None
