import pytest
import torch
import torch.nn.functional as F
from mmengine.registry import MODELS as ROOT_MODELS
from mmpretrain.registry import MODELS

from dmae_mm.models import SimpleFeaturePyramid


def build(**options):
    torch.manual_seed(0)
    return SimpleFeaturePyramid(
        **dict(dict(in_channels=8, out_channels=4), **options))


def norm(x, weight, bias):
    """Of the channels, written out."""
    mean = x.mean(1, keepdim=True)
    variance = ((x - mean)**2).mean(1, keepdim=True)
    x = (x - mean) / (variance + 1e-6).sqrt()
    return x * weight[:, None, None] + bias[:, None, None]


@pytest.mark.parametrize('grid', [(8, 8), (6, 10), (7, 5)])
def test_strides_and_shapes(grid):
    """An image of 16 px a patch has a map of W / stride at each stride."""
    height, width = grid
    maps = build()([torch.randn(2, 8, height, width)])
    assert [tuple(x.shape) for x in maps] == [
        (2, 4, 4 * height, 4 * width),
        (2, 4, 2 * height, 2 * width),
        (2, 4, height, width),
        (2, 4, height // 2, width // 2),
        (2, 4, -(-(height // 2) // 2), -(-(width // 2) // 2)),
    ]


def test_values():
    """The levels again, from the formulas of the paper."""
    neck = build()
    for p in neck.parameters():
        torch.nn.init.normal_(p)
    x = torch.randn(1, 8, 6, 4)
    maps = neck([x])
    state = neck.state_dict()

    def w(name):
        return state[f'levels.{name}.weight']

    def b(name):
        return state[f'levels.{name}.bias']

    def outputs(x, level, first):
        x = norm(
            F.conv2d(x, w(f'{level}.{first}')), w(f'{level}.{first + 1}'),
            b(f'{level}.{first + 1}'))
        x = F.conv2d(x, w(f'{level}.{first + 2}'), padding=1)
        return norm(x, w(f'{level}.{first + 3}'), b(f'{level}.{first + 3}'))

    def doubled(x, name):
        return F.conv_transpose2d(x, w(name), b(name), stride=2)

    by_4 = doubled(
        F.gelu(norm(doubled(x, '0.0'), w('0.1'), b('0.1'))), '0.3')
    expected = [
        outputs(by_4, 0, 4),
        outputs(doubled(x, '1.0'), 1, 1),
        outputs(x, 2, 0),
        outputs(F.max_pool2d(x, 2), 3, 1)
    ]
    expected.append(expected[3][:, :, ::2, ::2])
    for level, reference in zip(maps, expected, strict=True):
        torch.testing.assert_close(level, reference, rtol=1e-4, atol=1e-5)


def test_a_pixel_shows_at_its_place_on_each_level():
    """Nothing is shifted: the patch at (5, 2) changes what is around it."""
    neck = build()
    x = torch.randn(1, 8, 8, 8)
    moved = x.clone()
    moved[:, :, 5, 2] += 1
    for one, other, stride in zip(neck([x]), neck([moved]), (4, 8, 16, 32)):
        change = (one - other).abs().sum((0, 1)) > 1e-6
        rows, columns = change.nonzero().T
        scale = 16 / stride
        margin = 1  # of the 3x3 convolution
        assert rows.min() == int(5 * scale) - margin
        assert columns.min() == int(2 * scale) - margin
        assert rows.max() == -int(-6 * scale // 1) - 1 + margin
        assert columns.max() == -int(-3 * scale // 1) - 1 + margin


def test_gradients_reach_every_parameter_and_the_last_map_only():
    neck = build()
    first = torch.randn(1, 8, 4, 4, requires_grad=True)
    last = torch.randn(1, 8, 4, 4, requires_grad=True)
    torch.manual_seed(1)
    maps = neck([first, last])
    sum((x * torch.randn_like(x)).sum() for x in maps).backward()
    assert first.grad is None
    assert (last.grad != 0).all()
    for name, parameter in neck.named_parameters():
        assert parameter.grad.abs().sum() > 0, name


def test_the_first_four_of_five_levels():
    x = torch.randn(1, 8, 4, 4)
    four, five = build(num_outs=4)([x]), build()([x])
    assert len(four) == 4 and len(five) == 5
    for one, other in zip(four, five):
        assert torch.equal(one, other)


def test_convolutions_have_no_bias():
    assert sum(p.numel() for p in build().parameters()) == sum([
        8 * 4 * 4 + 4 + 2 * 4 + 4 * 2 * 4 + 2,  # to stride 4, with norm
        8 * 4 * 4 + 4,  # to stride 8
        (2 + 4 + 8 + 8) * 4,  # 1x1
        4 * 4 * 4 * 9,  # 3x3
        4 * 2 * 2 * 4  # norms
    ])


@pytest.mark.parametrize('registry', [MODELS, ROOT_MODELS])
def test_other_toolboxes_find_it(registry):
    neck = registry.build(dict(type='SimpleFeaturePyramid', in_channels=8))
    assert type(neck).__name__ == 'SimpleFeaturePyramid'


@pytest.mark.parametrize('options, message', [
    (dict(in_channels=6), 'in_channels=6 .*multiple of 4'),
    (dict(in_channels=0), 'in_channels=0'),
    (dict(in_channels=[8, 8]), r'in_channels=\[8, 8\].*one number'),
    (dict(num_outs=3), 'num_outs=3.*4 levels.*or 5'),
    (dict(num_outs=6), 'num_outs=6'),
])
def test_impossible_options(options, message):
    with pytest.raises(ValueError, match=f'(?s){message}'):
        build(**options)


def test_unknown_option():
    with pytest.raises(TypeError, match="norm_cfg='BN'.*num_outs"):
        build(norm_cfg='BN')


@pytest.mark.parametrize('inputs, message', [
    ((), 'gave no map.*out_indices'),
    ([torch.zeros(2, 12, 4, 4)],
     r'\(2, 12, 4, 4\) instead of \(B, 8, H, W\).*width of the backbone'),
    ([torch.zeros(2, 17, 8)], r"\(2, 17, 8\) instead of.*'featmap'"),
])
def test_what_is_no_map(inputs, message):
    with pytest.raises(ValueError, match=f'(?s){message}'):
        build()(inputs)
