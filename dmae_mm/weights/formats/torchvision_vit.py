"""Vision transformers of torchvision, with SWAG's weights or its own."""
from typing import Optional

from ..names import under_prefix
from ..origin import IMAGENET_MEAN, IMAGENET_STD, Origin
from ..tensor_file import TensorFile
from .format import Format
from .renaming import rename, table
from .towers import Sizes, choose_prefix, others, prefixes_of

_BLOCK = 'encoder.layers.encoder_layer_'
# Behind `blocks.`, which stands for `_BLOCK`. In older versions the two
# linear layers had names instead of numbers.
_NAMES = table('''
    class_token                             cls_token
    conv_proj.*                             patch_embed.proj.*
    encoder.pos_embedding                   pos_embed
    blocks.#.ln_1.*                         blocks.#.norm1.*
    blocks.#.self_attention.in_proj_weight  blocks.#.attn.qkv.weight
    blocks.#.self_attention.in_proj_bias    blocks.#.attn.qkv.bias
    blocks.#.self_attention.out_proj.*      blocks.#.attn.proj.*
    blocks.#.ln_2.*                         blocks.#.norm2.*
    blocks.#.mlp.0.*                        blocks.#.mlp.fc1.*
    blocks.#.mlp.3.*                        blocks.#.mlp.fc2.*
    blocks.#.mlp.linear_1.*                 blocks.#.mlp.fc1.*
    blocks.#.mlp.linear_2.*                 blocks.#.mlp.fc2.*
    encoder.ln.*                            norm.*
''')
_MODELS = {
    (768, 12, 16): 'vit_base_patch16_224',
    (768, 12, 32): 'vit_base_patch32_224',
    (1024, 24, 16): 'vit_large_patch16_224',
    (1024, 24, 32): 'vit_large_patch32_224',
    (1280, 32, 14): 'vit_huge_patch14_224',
}


def recognise(file: TensorFile) -> Optional[Format]:
    """A ``torchvision.models.VisionTransformer``, or None."""
    prefixes = prefixes_of(file.tensors, 'class_token',
                           'encoder.pos_embedding')
    if not prefixes:
        return None
    prefix = choose_prefix(prefixes)
    tensors = under_prefix(file.tensors, prefix)
    if 'conv_proj.weight' not in tensors:
        raise ValueError(
            'it is a vision transformer of torchvision with a convolutional '
            'stem, which mixes hidden patches into visible ones. Take one '
            'without conv_stem_configs, such as vit_b_16')
    renamed, head = rename(
        {name.replace(_BLOCK, 'blocks.', 1): tensor
         for name, tensor in tensors.items()}, _NAMES, ['heads.'])
    model_name, model_kwargs = Sizes.of(renamed).model(_MODELS)
    return Format(
        name='a vision transformer of torchvision',
        tensors=renamed,
        model_name=model_name,
        model_kwargs=model_kwargs,
        norm_eps=1e-6,
        act_layer='gelu',
        origin=Origin(
            mean=IMAGENET_MEAN,
            std=IMAGENET_STD,
            said_by="torchvision's transforms for all of its ViTs"),
        ignored=others(file.tensors, prefix) + head)
