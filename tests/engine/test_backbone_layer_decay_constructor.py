"""Each block's learning rate, in models of other toolboxes."""
import mmpretrain.models
import pytest
import torch.nn as nn
from mmengine.config import ConfigDict
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope

from tests.toys.models import STUDENT

DECAY = dict(type='AdamW', lr=1.0, weight_decay=0.1)


@pytest.fixture(params=['mmseg', 'mmpretrain'])
def scope(request):
    with DefaultScope.overwrite_default_scope(request.param):
        yield


@pytest.fixture(scope='module')
def segmentor():
    """A ViT of 4 blocks with a head, and in its place a neck, of mmseg."""
    from tests.toys import needs_mmseg  # noqa: F401
    import mmseg.models  # noqa: F401  registers what is built
    from mmseg.registry import MODELS
    norm_cfg = dict(type='BN')
    with DefaultScope.overwrite_default_scope('mmseg'):
        return MODELS.build(
            dict(
                type='EncoderDecoder',
                backbone=dict(
                    type='mmpretrain.VisionTransformer',
                    arch=STUDENT,
                    img_size=32,
                    patch_size=8,
                    out_type='featmap',
                    out_indices=[0, 1, 2, 3]),
                neck=dict(
                    type='Feature2Pyramid',
                    embed_dim=24,
                    rescales=[4, 2, 1, 0.5],
                    norm_cfg=norm_cfg),
                decode_head=dict(
                    type='FCNHead',
                    in_channels=24,
                    channels=8,
                    in_index=3,
                    num_classes=3,
                    norm_cfg=norm_cfg)))


def groups(model, optimizer=DECAY, **paramwise_cfg):
    """{name of a parameter: (learning rate, weight decay)}"""
    wrapper = build_optim_wrapper(
        model,
        dict(
            type='OptimWrapper',
            optimizer=dict(optimizer),
            constructor='BackboneLayerDecayConstructor',
            paramwise_cfg=ConfigDict(paramwise_cfg)))
    names = {id(p): name for name, p in model.named_parameters()}
    return {
        names[id(p)]: (group['lr'], group['weight_decay'])
        for group in wrapper.optimizer.param_groups for p in group['params']
    }


@pytest.mark.usefixtures('scope')
def test_learning_rates_by_hand(segmentor):
    # Halves are exact: 0.5 for the last block, and so on.
    rates = {
        'backbone.cls_token': 1 / 32,
        'backbone.pos_embed': 1 / 32,
        'backbone.patch_embed.': 1 / 32,
        'backbone.layers.0.': 1 / 16,
        'backbone.layers.1.': 1 / 8,
        'backbone.layers.2.': 1 / 4,
        'backbone.layers.3.': 1 / 2,
        'backbone.ln1.': 1,
        'neck.': 1,
        'decode_head.': 1,
    }
    found = groups(segmentor, layer_decay_rate=0.5)
    assert len(found) == len(list(segmentor.parameters()))
    seen = set()
    for name, (rate, decay) in found.items():
        prefix, = [prefix for prefix in rates if name.startswith(prefix)]
        assert rate == rates[prefix], name
        assert decay == 0.1, name
        seen.add(prefix)
    assert seen == set(rates)


def test_the_base_rate_counts(segmentor):
    found = groups(
        segmentor, dict(DECAY, lr=1e-4), layer_decay_rate=0.65)
    assert found['decode_head.conv_seg.weight'][0] == 1e-4
    assert found['backbone.layers.1.attn.qkv.weight'][0] == pytest.approx(
        1e-4 * 0.65**3)
    assert found['backbone.patch_embed.projection.bias'][0] == pytest.approx(
        1e-4 * 0.65**5)


def test_a_rate_of_one_trains_all_layers_alike(segmentor):
    assert set(groups(segmentor, layer_decay_rate=1).values()) == {(1., 0.1)}


def test_weight_decay(segmentor):
    norm, bias = 'backbone.layers.0.ln1.weight', 'decode_head.conv_seg.bias'
    weight, cls_token = 'decode_head.conv_seg.weight', 'backbone.cls_token'
    names = (norm, bias, weight, cls_token)

    def decays(**options):
        found = groups(segmentor, layer_decay_rate=1.0, **options)
        return [found[name][1] / 0.1 for name in names]

    assert decays(norm_decay_mult=0.) == [0, 1, 1, 1]
    assert decays(bias_decay_mult=0.5) == [1, 0.5, 1, 1]
    assert decays(flat_decay_mult=0.) == [0, 0, 1, 1]
    assert decays(custom_keys={'cls_token': dict(decay_mult=0.5)}) == [
        1, 1, 1, 0.5]


def test_what_is_frozen_has_no_group(segmentor):
    segmentor.backbone.cls_token.requires_grad_(False)
    found = groups(segmentor, layer_decay_rate=0.5)
    segmentor.backbone.cls_token.requires_grad_(True)
    every = groups(segmentor, layer_decay_rate=0.5)
    assert set(every) - set(found) == {'backbone.cls_token'}


@pytest.mark.parametrize('options, message', [
    (dict(num_layers=12),
     'no option num_layers=12: the backbone knows.*are: layer_decay_rate, '),
    (dict(decay_rate=0.5), 'has no option decay_rate=0.5. Its'),
    (dict(layer_decay_rate=0), r'layer_decay_rate=0 is not in \(0, 1\]'),
    (dict(layer_decay_rate=1.1), 'layer_decay_rate=1.1 is not in'),
    (dict(layer_decay_rate='0.5'), "layer_decay_rate='0.5' is not in"),
    (dict(layer_decay_rate=None), 'layer_decay_rate=None is not in'),
    ({}, 'layer_decay_rate=None is not in'),
    (dict(norm_decay_mult=-1), 'norm_decay_mult=-1 is no number >= 0'),
    (dict(custom_keys={'norm': dict(lr_mult=2)}),
     r"custom_keys\['norm'\]={'lr_mult': 2} has to be dict\(decay_mult="),
    (dict(custom_keys={'norm': 0.}), r"\['norm'\]=0.0 has to be dict"),
    (dict(custom_keys={'norm': dict(decay_mult='0')}),
     r"\['norm'\].decay_mult='0' is no number >= 0"),
])
def test_options_that_cannot_work(segmentor, options, message):
    with pytest.raises(ValueError, match=f'paramwise_cfg.*{message}'):
        groups(segmentor, **{'layer_decay_rate': 0.5, **options} if options
               else {})


@pytest.mark.parametrize('name', ['lr', 'weight_decay'])
def test_the_optimizer_says_what_is_decayed(segmentor, name):
    optimizer = {key: DECAY[key] for key in DECAY if key != name}
    with pytest.raises(ValueError, match=f'optimizer.{name}=None.*a number'):
        groups(segmentor, optimizer, layer_decay_rate=0.5)


def test_a_model_without_backbone():
    with pytest.raises(ValueError, match='Linear has no backbone'):
        groups(nn.Linear(2, 2), layer_decay_rate=0.5)


def test_a_backbone_that_does_not_know_its_depths():
    model = nn.Module()
    model.backbone = nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r'(?s)Linear does not say.*') as info:
        groups(model, layer_decay_rate=0.5)
    named = str(info.value).split("mmpretrain's ")[1].split(' have it')[0]
    named = named.replace(' and', ',').split(', ')
    assert len(named) == 7
    for name in named:
        assert hasattr(getattr(mmpretrain.models, name), 'get_layer_depth')
