import pytest
import torch
from mmpretrain.models.utils import build_2d_sincos_position_embedding

from dmae_mm.models import FeatureGenerationNeck


def build(**options):
    torch.manual_seed(0)
    neck = FeatureGenerationNeck(
        **dict(dict(embed_dims=8, grid=(2, 3), num_heads=2), **options))
    neck.init_weights()
    return neck


IDS_KEEP = torch.tensor([[5, 0], [1, 2]])
IDS_EXTRA = torch.tensor([[1, 4, 2], [0, 5, 4]])
PROJECTED = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(1))


def test_blocks_see_seen_and_mask_tokens_at_their_positions():
    neck = build()
    inputs = []
    neck.blocks[0].register_forward_pre_hook(
        lambda module, args: inputs.append(args[0]))
    output = neck(PROJECTED, IDS_KEEP, IDS_EXTRA)
    positions = build_2d_sincos_position_embedding((2, 3), 8)[0]
    for image in range(2):
        wanted = torch.cat([
            PROJECTED[image, :1],  # CLS
            PROJECTED[image, 1:] + positions[IDS_KEEP[image]],
            neck.mask_token + positions[IDS_EXTRA[image]]
        ])
        torch.testing.assert_close(inputs[0][image], wanted)
    x = neck.blocks[1](neck.blocks[0](inputs[0]))
    assert output.shape == (2, 3, 8)
    assert torch.equal(output, x[:, 3:])


def test_order_and_absence_of_cls():
    """Each output belongs to its patch, in whatever order they come."""
    neck = build()
    order = torch.tensor([2, 0, 1])
    torch.testing.assert_close(
        neck(PROJECTED[:, 1:], IDS_KEEP, IDS_EXTRA[:, order]),
        neck(PROJECTED[:, 1:], IDS_KEEP, IDS_EXTRA)[:, order])


def test_all_of_it_learns():
    """The mask token too, and the student through its projected tokens."""
    neck = build(depth=1)
    projected = PROJECTED.clone().requires_grad_()
    neck(projected, IDS_KEEP, IDS_EXTRA).square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in neck.parameters())
    assert projected.grad.abs().sum() > 0
    assert 'mask_token' in dict(neck.named_parameters())


def test_initialisation():
    neck = build(embed_dims=512, num_heads=8, depth=0)
    assert neck.mask_token.std().item() == pytest.approx(0.02, rel=0.15)
    assert not len(neck.blocks) and list(neck.state_dict()) == ['mask_token']


@pytest.mark.parametrize('options', [
    dict(embed_dims=10), dict(num_heads=3), dict(num_heads=0)])
def test_widths_that_do_not_divide(options):
    with pytest.raises(ValueError, match='multiple of 4 and of num_heads='):
        build(**options)


def test_unknown_option():
    with pytest.raises(TypeError, match='heads=2.*num_heads'):
        FeatureGenerationNeck(8, (2, 3), heads=2)
