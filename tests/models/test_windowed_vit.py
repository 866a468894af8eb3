import pytest
import torch
import torch.nn as nn
from mmengine.runner import checkpoint
from mmpretrain.models import VisionTransformer
from mmpretrain.models.utils import resize_pos_embed
from mmpretrain.registry import MODELS
from timm.models.vision_transformer import VisionTransformer as TimmViT

from dmae_mm.weights.names import backbone_to_timm
from dmae_mm.models import WindowedViT, windowed_vit
from dmae_mm.models.windowed_vit import spread_global_blocks
from tests.toys.models import STUDENT, TOY_MODEL


def build(blocks=None, **options):
    """8 x 8 patches of 8 px by default, in windows of 4 x 4."""
    arch = dict(STUDENT)
    if blocks is not None:
        arch['global_attn_indexes'] = blocks
    options = dict(
        dict(arch=arch, img_size=64, patch_size=8, window_size=4), **options)
    return MODELS.build(dict(type='WindowedViT', **options))


def build_random(*args, **options):
    """No tensor at a value that hides a mistake, such as 0 or 1."""
    model = build(*args, **options)
    torch.manual_seed(2)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


@pytest.fixture(scope='module')
def student():
    """A DMAE model with random weights."""
    torch.manual_seed(0)
    model = MODELS.build(dict(TOY_MODEL))
    for parameter in model.backbone.parameters():
        nn.init.normal_(parameter)
    return model


@pytest.fixture(scope='module')
def pretrained(student, tmp_path_factory):
    path = tmp_path_factory.mktemp('dmae') / 'epoch_1.pth'
    torch.save(dict(state_dict=student.state_dict(), meta={}), path)
    return str(path)


def from_checkpoint(path, prefix='backbone.', **options):
    model = build(
        init_cfg=dict(type='Pretrained', checkpoint=path, prefix=prefix),
        **options)
    model.init_weights()
    return model


def check_loaded(model, given):
    """All tensors of the model are the given ones; returns the rest."""
    given = dict(given)
    own = model.state_dict()
    positions = resize_pos_embed(
        given.pop('pos_embed'), (4, 4), model.patch_resolution)[:, 1:]
    assert torch.equal(own.pop('pos_embed').flatten(1, 2), positions)
    for name, tensor in own.items():
        assert torch.equal(tensor, given.pop(name)), name
    return set(given)


@pytest.mark.parametrize('img_size', [32, 64, (64, 32)])
def test_every_tensor_of_a_dmae_checkpoint_arrives(student, pretrained,
                                                   img_size):
    model = from_checkpoint(pretrained, img_size=img_size)
    unused = check_loaded(model, student.backbone.state_dict())
    assert unused == {'cls_token', 'ln1.weight', 'ln1.bias'}
    assert model.pos_embed.requires_grad  # fixed in MAE's pre-training


@pytest.mark.parametrize('options, unused', [
    (dict(), {'cls_token', 'ln1.weight', 'ln1.bias'}),
    (dict(out_type='avg_featmap', final_norm=False),
     {'cls_token', 'ln2.weight', 'ln2.bias'}),
])
def test_every_tensor_of_a_vision_transformer_arrives(options, unused):
    """Loading is strict here: with another name, it would raise."""
    vit = VisionTransformer(STUDENT, img_size=32, patch_size=8, **options)
    for parameter in vit.parameters():
        nn.init.normal_(parameter)
    model = build()
    model.load_state_dict(vit.state_dict())
    assert check_loaded(model, vit.state_dict()) == unused


def test_positions_without_class_token():
    vit = VisionTransformer(
        STUDENT, img_size=32, patch_size=8, out_type='featmap',
        with_cls_token=False, final_norm=False)
    nn.init.normal_(vit.pos_embed)
    model = build(img_size=32)
    model.load_state_dict(vit.state_dict())
    assert torch.equal(model.pos_embed.flatten(1, 2), vit.pos_embed)


def test_its_own_checkpoint_on_another_grid():
    old, new = build_random(img_size=64), build(img_size=(64, 32))
    new.load_state_dict(old.state_dict())
    torch.testing.assert_close(
        new.pos_embed.flatten(1, 2),
        resize_pos_embed(
            old.pos_embed.flatten(1, 2), (8, 8), (8, 4), num_extra_tokens=0))
    same = build(img_size=64)
    same.load_state_dict(old.state_dict())
    assert torch.equal(same.pos_embed, old.pos_embed)


def test_loading_leaves_the_callers_tensors_alone(student):
    given = student.backbone.state_dict()
    before = {name: tensor.clone() for name, tensor in given.items()}
    build().load_state_dict(given)
    assert list(given) == list(before)
    assert all(torch.equal(given[name], before[name]) for name in before)


def test_what_does_not_fit_is_not_hidden(student, monkeypatch):
    """Nothing but CLS token and last norms is kept from the host's log."""
    given = dict(student.backbone.state_dict())
    given['layers.0.attn.gamma1.weight'] = torch.ones(24)
    given['layers.1.ln1.weight'] = torch.ones(25)
    del given['layers.2.attn.qkv.bias']
    with pytest.raises(RuntimeError) as error:
        build().load_state_dict(given)
    for name in ('layers.0.attn.gamma1.weight', 'layers.1.ln1.weight',
                 'layers.2.attn.qkv.bias'):
        assert name in str(error.value)
    log = []
    for module in (windowed_vit, checkpoint):  # ours, and the host's
        monkeypatch.setattr(module, 'print_log',
                            lambda message, *args, **kwargs: log.append(
                                message))
    checkpoint.load_state_dict(build(), given)
    assert 'no use for cls_token, ln1.weight, ln1.bias.' in log[0]
    assert 'unexpected key in source state_dict: layers.0.attn.g' in log[1]


def test_another_width_is_reported_as_such(student):
    narrow = dict(STUDENT, embed_dims=16)
    with pytest.raises(RuntimeError, match='size mismatch for pos_embed'):
        build(arch=narrow).load_state_dict(student.backbone.state_dict())


def test_positions_of_no_square():
    vit = VisionTransformer(STUDENT, img_size=(32, 16), patch_size=8)
    with pytest.raises(ValueError, match='8 patches, which are no square'):
        build().load_state_dict(vit.state_dict())


def test_a_list_of_init_cfgs(pretrained):
    """ViTSAM would draw the positions anew after loading."""
    init_cfg = [
        dict(type='Pretrained', checkpoint=pretrained, prefix='backbone.')
    ]
    with pytest.raises(ValueError, match='without list'):
        build(init_cfg=init_cfg)
    build(init_cfg=[dict(type='TruncNormal', layer='Linear', std=.02)])


def test_equals_timm_without_windows():
    model = build_random(blocks=[0, 1, 2, 3])
    reference = TimmViT(
        img_size=64, patch_size=8, embed_dim=24, depth=4, num_heads=2,
        class_token=False, num_classes=0, global_pool='')
    reference.norm = nn.Identity()
    state = model.state_dict()
    state['pos_embed'] = state['pos_embed'].flatten(1, 2)
    reference.load_state_dict(backbone_to_timm(state))
    images = torch.randn(2, 3, 64, 64)
    features, = model(images)
    assert features.shape == (2, 24, 8, 8)
    expected = reference(images)
    scale = expected.abs().max()
    difference = features.flatten(2).transpose(1, 2) - expected
    assert difference.abs().max() < 1e-5 * scale
    # With windows, it is another function.
    windowed = build(blocks=[])
    windowed.load_state_dict(model.state_dict())
    difference = windowed(images)[0].flatten(2).transpose(1, 2) - expected
    assert difference.abs().max() > 1e-2 * scale


def blocks_of(model):
    """A windowed block of the model and a global one of equal weights."""
    windowed, whole = model.layers[0], model.layers[1]
    whole.load_state_dict(windowed.state_dict())
    assert (windowed.window_size, whole.window_size) == (4, 0)
    return windowed, whole


def test_a_window_is_an_image_of_its_own():
    windowed, whole = blocks_of(build_random(blocks=[1]))
    x = torch.randn(2, 8, 12, 24)
    output = windowed(x)
    for row in range(0, 8, 4):
        for column in range(0, 12, 4):
            window = slice(row, row + 4), slice(column, column + 4)
            torch.testing.assert_close(output[:, window[0], window[1]],
                                       whole(x[:, window[0], window[1]]))


def test_windows_at_the_border_are_filled_with_zeros():
    """5 x 6 tokens: the lower right window has 1 x 2 of them, and zeros
    behind the norm, which take part as keys, as in the paper's code."""
    windowed, whole = blocks_of(build_random(blocks=[1]))
    x = torch.randn(2, 5, 6, 24)
    corner = x[:, 4:, 4:]
    keys = torch.zeros(2, 4, 4, 24)
    keys[:, :1, :2] = whole.ln1(corner)
    hidden = corner + whole.attn(keys)[:, :1, :2]
    torch.testing.assert_close(
        windowed(x)[:, 4:, 4:], whole.ffn(whole.ln2(hidden), identity=hidden))
    assert windowed(x).shape == x.shape


@pytest.mark.parametrize('height, width', [(64, 64), (40, 48), (37, 90),
                                           (8, 8)])
def test_images_of_any_size(height, width):
    model = build_random()
    images = torch.randn(1, 3, height, width)
    features, = model(images)
    assert features.shape == (1, 24, -(-height // 8), -(-width // 8))
    assert features.isfinite().all()
    features.sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name


def test_zeros_fill_up_the_last_patches():
    model = build_random()
    images = torch.randn(1, 3, 37, 61)
    filled = torch.zeros(1, 3, 40, 64)
    filled[:, :, :37, :61] = images
    assert torch.equal(model(images)[0], model(filled)[0])


def test_windows_as_large_as_the_image_change_nothing():
    model = build_random(blocks=[], window_size=8)
    whole = build(blocks=[0, 1, 2, 3])
    whole.load_state_dict(model.state_dict())
    images = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(model(images)[0], whole(images)[0])


def test_relative_positions_start_as_if_there_were_none(student):
    """The option's only new tensors are zeros."""
    plain, relative = build(), build(use_rel_pos=True)
    plain.load_state_dict(student.backbone.state_dict())
    missing = relative.load_state_dict(plain.state_dict(), strict=False)
    assert missing.unexpected_keys == []
    assert len(missing.missing_keys) == 2 * 4
    assert all('.attn.rel_pos_' in name for name in missing.missing_keys)
    images = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(plain(images)[0], relative(images)[0])


@pytest.mark.parametrize('num_layers, blocks', [
    (12, [2, 5, 8, 11]), (24, [5, 11, 17, 23]), (32, [7, 15, 23, 31]),
    (6, [1, 2, 4, 5]), (4, [0, 1, 2, 3]), (2, [0, 1]), (1, [0]),
])
def test_global_blocks_are_spread(num_layers, blocks):
    assert spread_global_blocks(num_layers) == blocks
    model = build(arch=dict(STUDENT, num_layers=num_layers))
    assert [i for i, block in enumerate(model.layers)
            if block.window_size == 0] == blocks


@pytest.mark.parametrize('arch', ['deit-t', 'deit-s', 'b'])
def test_architectures_are_those_of_pretraining(arch):
    with torch.device('meta'):
        model = WindowedViT(arch, img_size=224)
        vit = VisionTransformer(arch)
    own = {name: p.shape for name, p in model.state_dict().items()}
    assert own.pop('pos_embed') == (1, 14, 14, vit.embed_dims)
    given = {name: p.shape for name, p in vit.state_dict().items()}
    assert own.items() < given.items()
    assert set(given) - set(own) == {
        'cls_token', 'pos_embed', 'ln1.weight', 'ln1.bias'
    }
    for one, other in zip(model.layers, vit.layers, strict=True):
        assert one.attn.num_heads == other.attn.num_heads
        assert one.ln1.eps == other.ln1.eps
    assert [i for i, block in enumerate(model.layers)
            if block.window_size == 0] == [2, 5, 8, 11]


def test_channels_and_stochastic_depth():
    model = build(in_channels=1, drop_path_rate=0.3)
    assert model(torch.randn(1, 1, 64, 64))[0].shape == (1, 24, 8, 8)
    assert [block.ffn.dropout_layer.drop_prob for block in model.layers
            ] == pytest.approx([0, 0.1, 0.2, 0.3])


def test_models_share_nothing_that_changes():
    arch = dict(STUDENT, global_attn_indexes=[1])
    one, other = build(arch=arch), build(arch=arch)
    assert arch == dict(STUDENT, global_attn_indexes=[1])
    assert one.out_indices == other.out_indices == [3]
    assert one.out_indices is not other.out_indices


def test_initialised_without_a_checkpoint():
    model = build()
    model.init_weights()
    assert model.pos_embed.std().item() == pytest.approx(0.02, rel=0.1)


def test_initialising_again_keeps_what_was_loaded(student, pretrained):
    model = from_checkpoint(pretrained)
    model.init_weights()
    check_loaded(model, student.backbone.state_dict())


def test_layer_depths():
    model = build()
    depths = {
        'backbone.patch_embed.projection.weight': 0,
        'backbone.pos_embed': 0,
        'backbone.layers.0.ln1.weight': 1,
        'backbone.layers.3.ffn.layers.1.bias': 4,
        'neck.levels.0.0.weight': 5
    }
    for name, depth in depths.items():
        assert model.get_layer_depth(name, 'backbone.') == (depth, 6), name


@pytest.mark.parametrize('options, message', [
    (dict(blocks=[1, 4]), r'\[1, 4\]: there is no block 4.*from 0 to 3'),
    (dict(blocks=[-1]), 'no block -1'),
    (dict(arch='tiny'), 'Choose one of deit-tiny, b, base, '),
    (dict(window_size=0), 'window_size=0 .*1 or more.*global_attn_indexes'),
    (dict(window_size=(4, 4)), r'window_size=\(4, 4\)'),
])
def test_impossible_options(options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)


def test_unknown_option():
    with pytest.raises(TypeError, match='out_channels=256.*window_size'):
        build(out_channels=256)
