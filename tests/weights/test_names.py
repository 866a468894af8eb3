"""MAE's names become mmpretrain's, one to one."""
import random

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmpretrain.registry import MODELS

from dmae_mm.weights import (backbone_from_timm, backbone_state_dict,
                                 backbone_to_timm, mae_to_mmpretrain)
from dmae_mm.weights.names import layout_of

from tests.toys.models import STUDENT
from tests.toys.checkpoints import META, encoder_only, golden_weights

HEADS = 'aligned_feature_projection_heads'
# Written by hand: what MAE has, and where mmpretrain keeps it. Which weight of
# a block is which, the models say that compute the same with them.
EXPECTED = {
    'cls_token': 'backbone.cls_token',
    'pos_embed': 'backbone.pos_embed',
    'patch_embed.proj.bias': 'backbone.patch_embed.projection.bias',
    'norm_pre.weight': 'backbone.pre_norm.weight',
    'blocks.0.norm1.bias': 'backbone.layers.0.ln1.bias',
    'blocks.7.ls1.gamma': 'backbone.layers.7.attn.gamma1.weight',
    'blocks.7.ls2.gamma': 'backbone.layers.7.ffn.gamma2.weight',
    'blocks.10.attn.qkv.bias': 'backbone.layers.10.attn.qkv.bias',
    'blocks.11.mlp.fc1.weight': 'backbone.layers.11.ffn.layers.0.0.weight',
    'blocks.11.mlp.fc2.weight': 'backbone.layers.11.ffn.layers.1.weight',
    'norm.weight': 'backbone.ln1.weight',
    'fc_norm.bias': 'backbone.ln2.bias',
    'head.weight': 'head.fc.weight',
    'mask_token': 'neck.mask_token',
    'decoder_pos_embed': 'neck.decoder_pos_embed',
    'decoder_embed.weight': 'neck.decoder_embed.weight',
    'decoder_blocks.1.attn.proj.bias': 'neck.decoder_blocks.1.attn.proj.bias',
    'decoder_blocks.7.norm2.weight': 'neck.decoder_blocks.7.ln2.weight',
    'decoder_blocks.7.mlp.fc2.bias': 'neck.decoder_blocks.7.ffn.layers.1.bias',
    'decoder_norm.bias': 'neck.ln1.bias',
    'decoder_pred.weight': 'neck.decoder_pred.weight',
}


@pytest.mark.parametrize('old, new', EXPECTED.items())
def test_each_name(old, new):
    tensor = torch.zeros(1)
    converted = mae_to_mmpretrain({old: tensor})
    assert list(converted) == [new] and converted[new] is tensor


def linear(in_dims, out_dims):
    weight = torch.rand(out_dims, in_dims)
    return dict(weight=weight, bias=torch.rand(out_dims))


def projector_file(*names):
    """Linear layers, distinguishable, under the given names."""
    return {
        f'{HEADS}.{name}.{kind}': tensor
        for name in names for kind, tensor in linear(2, 2).items()
    }


@pytest.mark.parametrize('old, new', [
    (['0'], ['0']),
    (['0', '1', '2'], ['0', '1', '2']),
    (['0.0'], ['0']),
    (['0.proj'], ['0']),
    (['0.fc1', '0.fc2'], ['0.0', '0.2']),
    (['0.0', '0.2'], ['0.0', '0.2']),
    (['0.2', '0.10'], ['0.0', '0.2']),
    (['0.fc9', '0.fc10'], ['0.0', '0.2']),
    (['0.0.fc1', '0.0.fc2', '0.1.fc1', '0.1.fc2'],
     ['0.0', '0.2', '0.3', '0.5']),
    (['0.0.0', '0.0.2', '0.1.0', '0.1.2'], ['0.0', '0.2', '0.3', '0.5']),
    (['0.0', '0.2', '0.3', '0.5'], ['0.0', '0.2', '0.3', '0.5']),
    (['0.0', '0.2', '0.8', '0.10'], ['0.0', '0.2', '0.3', '0.5']),
    (['0.fc1', '0.fc2', '1.fc1', '1.fc2'], ['0.0', '0.2', '1.0', '1.2']),
    (['2', '10'], ['2', '10']),
])
@pytest.mark.parametrize('shuffle', [False, True])
def test_projectors_by_the_order_of_their_names(old, new, shuffle):
    """Whatever the order in the file: safetensors sorts 10 before 2."""
    tensors = projector_file(*old)
    items = list(tensors.items())
    if shuffle:
        random.Random(0).shuffle(items)
    converted = mae_to_mmpretrain(dict(items))
    assert len(converted) == len(tensors)
    for before, after in zip(old, new):
        for kind in ('weight', 'bias'):
            name = f'distill_neck.projectors.{after}.{kind}'
            assert converted[name] is tensors[f'{HEADS}.{before}.{kind}']


@pytest.mark.parametrize('projector', ['linear', 'mlp', 'mlp2'])
def test_projectors_load_into_the_neck(projector):
    """From the plainest modules such code could be written with."""
    Linear, GELU = torch.nn.Linear, torch.nn.GELU
    mlp = [Linear(24, 32), GELU(), Linear(32, 32)]
    second = [Linear(32, 32), GELU(), Linear(32, 32)]
    module = dict(
        linear=mlp[0],
        mlp=torch.nn.Sequential(*mlp),
        mlp2=torch.nn.Sequential(
            torch.nn.Sequential(*mlp),
            torch.nn.Sequential(*second)))[projector]
    tensors = mae_to_mmpretrain({
        f'{HEADS}.0.{name}': tensor
        for name, tensor in module.state_dict().items()
    })
    neck = MODELS.build(
        dict(
            type='FeatureProjectionNeck',
            student_dims=24,
            teacher_dims=32,
            num_pairs=1,
            projector=projector))
    neck.load_state_dict(
        {k[len('distill_neck.'):]: tensor for k, tensor in tensors.items()})
    feature = torch.rand(2, 5, 24)
    torch.testing.assert_close(neck([feature])[0], module(feature))


@pytest.mark.parametrize('names', [
    ['0.0', '0.1', '0.2'],
    ['0.a', '0.b', '0.c', '0.d', '0.e'],
])
def test_projector_of_unknown_kind(names):
    with pytest.raises(ValueError, match=f'0 has {len(names)} linear layers'):
        mae_to_mmpretrain(projector_file(*names))


def test_norm_in_a_projector_is_not_taken_for_a_layer():
    tensors = projector_file('0.0', '0.2')
    tensors[f'{HEADS}.0.1.weight'] = torch.ones(2)
    with pytest.raises(ValueError, match=rf'neither .*: {HEADS}.0.1.weight'):
        mae_to_mmpretrain(tensors)


@pytest.mark.parametrize('name', [
    'cls_token.weight',
    'dist_token',
    'blocks.0.ls1.weight',
    'blocks.0.attn.q_norm.weight',
    'blocks.0.attn.qkv.scale',
    'blocks.x.norm1.weight',
    'blocks.#.norm1.weight',
    'blocks.0.norm3.weight',
    'decoder_blocks.0.norm3.weight',
    'my.blocks.0.norm1.weight',
    'patch_embed.proj.0.weight',
    'head.0.running_mean',
    'head.1.weight',
    'backbone.cls_token',
    f'{HEADS}.weight',
    f'{HEADS}.0.running_mean',
    '',
])
def test_unknown_name(name):
    with pytest.raises(ValueError) as error:
        mae_to_mmpretrain({'cls_token': torch.ones(1), name: torch.ones(1)})
    assert f'neither to MAE nor to DMAE: {name}. Expected' in str(error.value)


def test_many_unknown_names_are_counted():
    tensors = {f'a{i}': torch.ones(1) for i in range(12)}
    with pytest.raises(ValueError) as error:
        mae_to_mmpretrain({**projector_file('0.0', '0.2'), **tensors})
    assert str(error.value).endswith(
        ': a0, a1, a2, a3, a4 and 7 more. Expected names are cls_token, '
        'pos_embed, patch_embed.proj.*, norm_pre.*, blocks.*, norm.*, '
        'fc_norm.*, mask_token, decoder_pos_embed, decoder_embed.*, '
        'decoder_blocks.*, decoder_norm.*, decoder_pred.*, head.*, '
        f'{HEADS}.*.')


KNOWN_NAMES = st.one_of(
    st.sampled_from(sorted(EXPECTED)),
    st.builds(
        '{}.{}.{}.{}'.format, st.sampled_from(['blocks', 'decoder_blocks']),
        st.integers(0, 120),
        st.sampled_from(
            ['norm1', 'norm2', 'attn.qkv', 'attn.proj', 'mlp.fc1', 'mlp.fc2']),
        st.sampled_from(['weight', 'bias'])),
    st.builds((HEADS + '.{}.{}').format, st.integers(0, 12),
              st.sampled_from(['weight', 'bias'])))


@settings(max_examples=60, deadline=None)
@given(st.sets(KNOWN_NAMES, max_size=40))
def test_no_tensor_is_lost(names):
    # A bias of a projector alone belongs to no layer.
    names |= {
        name[:-4] + 'weight'
        for name in names if name.startswith(HEADS) and name.endswith('bias')
    }
    tensors = {name: torch.zeros(2, 2) for name in names}
    converted = mae_to_mmpretrain(tensors)
    assert len(converted) == len(tensors)
    assert {id(t) for t in converted.values()
            } == {id(t) for t in tensors.values()}
    assert all(
        name.startswith(('backbone.', 'neck.', 'distill_neck.', 'head.fc.'))
        for name in converted)


def test_published_model_fills_a_dmae_exactly(toy_model):
    assert META['student'] == STUDENT
    weights = golden_weights('student')
    model = MODELS.build(toy_model)
    model.load_state_dict(mae_to_mmpretrain(weights), strict=True)
    state = model.state_dict()
    assert len(state) == len(weights)
    assert torch.equal(state['backbone.layers.2.ffn.layers.1.weight'],
                       weights['blocks.2.mlp.fc2.weight'])
    assert torch.equal(state['neck.ln1.bias'], weights['decoder_norm.bias'])


def test_fine_tuned_model_fills_a_classifier_exactly():
    weights = encoder_only(golden_weights('student'))
    weights['fc_norm.weight'] = weights.pop('norm.weight')
    weights['fc_norm.bias'] = weights.pop('norm.bias')
    weights.update({'head.weight': torch.rand(10, 24),
                    'head.bias': torch.rand(10)})
    model = MODELS.build(
        dict(
            type='ImageClassifier',
            backbone=dict(
                type='VisionTransformer',
                arch=STUDENT,
                img_size=32,
                patch_size=8,
                out_type='avg_featmap',
                final_norm=False),
            head=dict(type='LinearClsHead', num_classes=10, in_channels=24)))
    model.load_state_dict(mae_to_mmpretrain(weights), strict=True)


FULL, ENCODER = golden_weights('student'), encoder_only(
    golden_weights('student'))
WHOLE = mae_to_mmpretrain(FULL)
BACKBONE = {
    name[len('backbone.'):]: tensor
    for name, tensor in WHOLE.items() if name.startswith('backbone.')
}


@pytest.mark.parametrize('tensors, layout', [
    (FULL, 'timm/MAE'),
    (ENCODER, 'timm/MAE'),
    (WHOLE, 'mmpretrain'),
    ({f'backbone.{k}': v for k, v in BACKBONE.items()}, 'mmpretrain'),
    (BACKBONE, 'mmpretrain backbone'),
])
def test_encoder_is_found_in_every_layout(tensors, layout):
    found, found_layout = backbone_state_dict(tensors)
    assert found_layout == layout_of(tensors) == layout
    assert found.keys() == BACKBONE.keys()
    assert all(torch.equal(found[name], BACKBONE[name]) for name in found)


IN_TIMM = {
    old: new[len('backbone.'):]
    for old, new in EXPECTED.items() if new.startswith('backbone.')
}


@pytest.mark.parametrize('timm_name, name', IN_TIMM.items())
def test_each_name_in_timm(timm_name, name):
    tensor = torch.zeros(1)
    assert backbone_to_timm({name: tensor}) == {timm_name: tensor}
    assert backbone_from_timm({timm_name: tensor}) == {name: tensor}


BACKBONE_NAMES = st.one_of(
    st.sampled_from(sorted(IN_TIMM.values())),
    st.builds(
        'layers.{}.{}'.format, st.integers(0, 120),
        st.sampled_from([
            name.split('.', 2)[2] for name in IN_TIMM.values()
            if name.startswith('layers.')
        ])))


@settings(max_examples=60, deadline=None)
@given(st.sets(BACKBONE_NAMES, max_size=40))
def test_to_timm_and_back(names):
    tensors = {name: torch.zeros(1) for name in names}
    in_timm = backbone_to_timm(tensors)
    assert len(in_timm) == len(tensors)
    back = backbone_from_timm(in_timm)
    assert list(back) == list(tensors)
    assert all(back[name] is tensors[name] for name in tensors)


@pytest.mark.parametrize('rename, unknown, whose', [
    (backbone_to_timm, 'blocks.0.norm1.weight', 'mmpretrain'),
    (backbone_to_timm, 'layers.0.ffn.w12.weight', 'mmpretrain'),
    (backbone_to_timm, 'backbone.cls_token', 'mmpretrain'),
    (backbone_from_timm, 'layers.0.ln1.weight', 'timm'),
    (backbone_from_timm, 'reg_token', 'timm'),
    (backbone_from_timm, 'head.weight', 'timm'),
])
def test_unknown_in_a_backbone(rename, unknown, whose):
    with pytest.raises(ValueError) as error:
        rename({'cls_token': torch.ones(1), unknown: torch.ones(1)})
    assert f"not among {whose}'s names" in str(error.value)
    assert f'transformer: {unknown}. Expected names' in str(error.value)


def test_encoder_of_a_timm_model_is_found():
    """With layer scale, a norm before the blocks, and a classifier."""
    model = timm.create_model(
        'vit_base_patch16_224', img_size=32, patch_size=8, embed_dim=24,
        depth=4, num_heads=2, init_values=.1, pre_norm=True, num_classes=3)
    found, layout = backbone_state_dict(model.state_dict())
    assert layout == 'timm/MAE'
    vit = MODELS.build(
        dict(
            type='VisionTransformer', arch=STUDENT, img_size=32, patch_size=8,
            layer_scale_init_value=.1, pre_norm=True))
    vit.load_state_dict(found, strict=True)


def test_layout_is_recognised_without_any_one_tensor():
    """So that a file in which one is missing is reported as just that."""
    for tensors in (ENCODER, BACKBONE, WHOLE):
        for name in tensors:
            part = {k: v for k, v in tensors.items() if k != name}
            assert layout_of(part) == layout_of(tensors)


@pytest.mark.parametrize('tensors, found', [
    ({k: v for k, v in FULL.items() if k.startswith('decoder_')}, 'decoder'),
    ({k: v for k, v in WHOLE.items() if k.startswith('neck.')}, 'decoder'),
    (dict(encoder=torch.ones(1)), "1 other tensors, the first named 'encoder"),
])
def test_no_encoder(tensors, found):
    with pytest.raises(ValueError, match='there is no encoder in it') as error:
        backbone_state_dict(tensors)
    assert found in str(error.value)
