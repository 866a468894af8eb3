"""Names of weights in Hugging Face transformers, and timm's."""
from typing import Dict, List, NamedTuple, Tuple

import torch

from ..tensor_file import Tensors
from .renaming import fuse_qkv, rename, table


class Layout(NamedTuple):
    """Names of one family.

    Attributes:
        names (dict[str, str]): Of :func:`table`, without the prefix.
        aside (tuple[str]): How the names begin of what follows the last
            block, or serves another task, likewise.
        beside (tuple[str]): How others begin, outside the prefix.
    """
    names: Dict[str, str]
    aside: Tuple[str, ...] = ()
    beside: Tuple[str, ...] = ()


_PATCHES = '''
    embeddings.cls_token                     cls_token
    embeddings.position_embeddings           pos_embed
    embeddings.patch_embeddings.projection.* patch_embed.proj.*
    encoder.layer.#.attention.attention.query.*  blocks.#.attn.q.*
    encoder.layer.#.attention.attention.key.*    blocks.#.attn.k.*
    encoder.layer.#.attention.attention.value.*  blocks.#.attn.v.*
    encoder.layer.#.attention.output.dense.*     blocks.#.attn.proj.*
    layernorm.*                              norm.*
'''
# ViT, DeiT, ViT-MAE.
_VIT = Layout(
    table(_PATCHES + '''
    embeddings.distillation_token            dist_token
    encoder.layer.#.layernorm_before.*       blocks.#.norm1.*
    encoder.layer.#.layernorm_after.*        blocks.#.norm2.*
    encoder.layer.#.intermediate.dense.*     blocks.#.mlp.fc1.*
    encoder.layer.#.output.dense.*           blocks.#.mlp.fc2.*
'''),
    aside=('embeddings.mask_token', 'pooler.'),
    beside=('classifier.', 'cls_classifier.', 'distillation_classifier.',
            'decoder.'))
_DINOV2 = Layout(
    table(_PATCHES + '''
    embeddings.register_tokens               reg_token
    encoder.layer.#.norm1.*                  blocks.#.norm1.*
    encoder.layer.#.layer_scale1.lambda1     blocks.#.ls1.gamma
    encoder.layer.#.norm2.*                  blocks.#.norm2.*
    encoder.layer.#.mlp.fc1.*                blocks.#.mlp.fc1.*
    encoder.layer.#.mlp.fc2.*                blocks.#.mlp.fc2.*
    encoder.layer.#.mlp.weights_in.*         blocks.#.mlp.fc1.*
    encoder.layer.#.mlp.weights_out.*        blocks.#.mlp.fc2.*
    encoder.layer.#.layer_scale2.lambda1     blocks.#.ls2.gamma
'''),
    aside=('embeddings.mask_token', ),
    beside=('classifier.', ))
_DINOV3 = Layout(
    table('''
    embeddings.cls_token                     cls_token
    embeddings.register_tokens               reg_token
    embeddings.patch_embeddings.*            patch_embed.proj.*
    layer.#.norm1.*                          blocks.#.norm1.*
    layer.#.attention.q_proj.*               blocks.#.attn.q.*
    layer.#.attention.k_proj.*               blocks.#.attn.k.*
    layer.#.attention.v_proj.*               blocks.#.attn.v.*
    layer.#.attention.o_proj.*               blocks.#.attn.proj.*
    layer.#.layer_scale1.lambda1             blocks.#.gamma_1
    layer.#.norm2.*                          blocks.#.norm2.*
    layer.#.mlp.gate_proj.*                  blocks.#.mlp.fc1_g.*
    layer.#.mlp.up_proj.*                    blocks.#.mlp.fc1.*
    layer.#.mlp.down_proj.*                  blocks.#.mlp.fc2.*
    layer.#.layer_scale2.lambda1             blocks.#.gamma_2
    norm.*                                   norm.*
'''),
    aside=('embeddings.mask_token', 'rope_embeddings.'),
    beside=('classifier.', ))
# The vision tower of CLIP and of SigLIP.
_TOWER = Layout(
    table('''
    embeddings.class_embedding               cls_token
    embeddings.patch_embedding.*             patch_embed.proj.*
    embeddings.position_embedding.weight     pos_embed
    pre_layrnorm.*                           norm_pre.*
    encoder.layers.#.layer_norm1.*           blocks.#.norm1.*
    encoder.layers.#.self_attn.q_proj.*      blocks.#.attn.q.*
    encoder.layers.#.self_attn.k_proj.*      blocks.#.attn.k.*
    encoder.layers.#.self_attn.v_proj.*      blocks.#.attn.v.*
    encoder.layers.#.self_attn.out_proj.*    blocks.#.attn.proj.*
    encoder.layers.#.layer_norm2.*           blocks.#.norm2.*
    encoder.layers.#.mlp.fc1.*               blocks.#.mlp.fc1.*
    encoder.layers.#.mlp.fc2.*               blocks.#.mlp.fc2.*
    post_layernorm.*                         norm.*
'''),
    aside=('embeddings.position_ids', 'head.'),
    beside=('text_model.', 'text_projection.', 'visual_projection.',
            'logit_scale', 'logit_bias', 'classifier.'))
LAYOUTS = dict(
    vit=_VIT,
    deit=_VIT,
    vit_mae=_VIT,
    dinov2=_DINOV2,
    dinov2_with_registers=_DINOV2,
    dinov3_vit=_DINOV3,
    clip=_TOWER,
    siglip=_TOWER)

# What each encoder has, and what may be in front of it.
_PATCH_EMBEDDINGS = ('embeddings.patch_embeddings.projection.weight',
                     'embeddings.patch_embeddings.weight',
                     'embeddings.patch_embedding.weight')
_WORDS = ('embeddings.token_embedding.weight',
          'embeddings.word_embeddings.weight')


def find_encoder(tensors: Tensors) -> Tuple[str, str]:
    """Where in a file an encoder is, and of which family by its names.

    Returns:
        tuple[str, str]: What stands in front of its names, and a key of
        :data:`LAYOUTS`. Two empty ones if there is none.
    """
    for name in tensors:
        for ending in _PATCH_EMBEDDINGS:
            prefix = name.removesuffix(ending)
            if prefix != name and (not prefix or prefix.endswith('.')):
                return prefix, _family(tensors, prefix, ending)
    return '', ''


def _family(tensors: Tensors, prefix: str, patches: str) -> str:
    def has(name: str) -> bool:
        return f'{prefix}{name}' in tensors

    if patches == _PATCH_EMBEDDINGS[1]:
        return 'dinov3_vit'
    if patches == _PATCH_EMBEDDINGS[2]:
        return 'clip' if has('embeddings.class_embedding') else 'siglip'
    if has('embeddings.register_tokens'):
        return 'dinov2_with_registers'
    if has('encoder.layer.0.layer_scale1.lambda1'):
        return 'dinov2'
    if has('embeddings.distillation_token'):
        return 'deit'
    return 'vit_mae' if any(
        name.startswith('decoder.decoder_') for name in tensors) else 'vit'


def text_model(tensors: Tensors) -> str:
    """What it is, if it is of words: 'CLIP text model'; '' if it is not."""
    if not any(name.endswith(_WORDS) for name in tensors):
        return ''
    if any('embeddings.token_embedding.' in name for name in tensors):
        ends = ('text_model.head.weight', 'head.weight')
        return ('SigLIP' if any(name in tensors
                                for name in ends) else 'CLIP') + ' text model'
    return 'text model'


def to_timm(tensors: Tensors, prefix: str,
            family: str) -> Tuple[Tensors, List[str]]:
    """The encoder under timm's names.

    Args:
        tensors (dict[str, torch.Tensor]): All of the file.
        prefix (str): What stands in front of the encoder's names.
        family (str): A key of :data:`LAYOUTS`.

    Returns:
        tuple[dict, list[str]]: The encoder, and the names of what is left
        aside.

    Raises:
        ValueError: If there are names that are not of this family, or the
            tensors have other shapes.
    """
    layout = LAYOUTS[family]
    names = {f'{prefix}{old}': new for old, new in layout.names.items()}
    found, left = rename(
        tensors, names,
        [*(prefix + name for name in layout.aside), *layout.beside])
    if 'reg_token' in found and not found['reg_token'].numel():
        del found['reg_token']
    if family == 'dinov3_vit':
        return _like_eva(found), left
    for name in ('cls_token', 'pos_embed'):
        if name in found and family in ('clip', 'siglip'):
            found[name] = found[name].reshape(1, -1, found[name].shape[-1])
    if 'reg_token' in found:
        # timm's has positions of patches alone.
        cls_token, positions = found['cls_token'], found['pos_embed']
        if cls_token.shape != positions[:, :1].shape:
            raise ValueError(
                f'its cls_token has the shape {tuple(cls_token.shape)}, its '
                f'position_embeddings have {tuple(positions.shape)}')
        found['cls_token'] = cls_token.float() + positions[:, :1].float()
        found['pos_embed'] = positions[:, 1:]
    return fuse_qkv(found), left


def _like_eva(found: Tensors) -> Tensors:
    """timm's Eva keeps the biases of q and v apart, and has none of k."""
    gated = any('.mlp.fc1_g.' in name for name in found)
    with_biases, biases = {}, {}
    for name, tensor in found.items():
        if gated:
            name = name.replace('.mlp.fc1.', '.mlp.fc1_x.')
        if name.endswith(('.attn.q.bias', '.attn.k.bias', '.attn.v.bias')):
            block, kind = name[:-len('.q.bias')], name[-len('q.bias')]
            if kind != 'k':
                biases[f'{block}.{kind}_bias'] = tensor
            elif tensor.any():
                raise ValueError(f'{name} is a bias of keys, which a DINOv3 '
                                 'of timm has not')
            continue
        with_biases[name] = tensor
    for name, tensor in list(biases.items()):  # timm has both, or neither
        for kind in 'qv':
            biases.setdefault(f'{name[:-len("q_bias")]}{kind}_bias',
                              torch.zeros_like(tensor))
    for name, tensor in list(with_biases.items()):
        if name.endswith(('.attn.proj.weight', '.mlp.fc1.weight',
                          '.mlp.fc1_g.weight', '.mlp.fc1_x.weight',
                          '.mlp.fc2.weight')):
            with_biases.setdefault(f'{name[:-len("weight")]}bias',
                                   tensor.new_zeros(len(tensor)))
    return {**fuse_qkv(with_biases), **biases}
