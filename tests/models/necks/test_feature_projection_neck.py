import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F

from dmae_mm.models import FeatureProjectionNeck


def build(projector, student_dims=4, teacher_dims=6, num_pairs=1):
    torch.manual_seed(0)
    return FeatureProjectionNeck(
        student_dims, teacher_dims, num_pairs, projector=projector)


def by_hand(projector, state, x):
    def linear(name, x):
        return F.linear(x, state[f'{name}weight'], state.get(f'{name}bias'))

    if projector in ('linear', 'linear_no_bias'):
        return linear('projectors.0.', x)
    x = linear('projectors.0.2.', F.gelu(linear('projectors.0.0.', x)))
    if projector == 'mlp2':
        x = linear('projectors.0.5.', F.gelu(linear('projectors.0.3.', x)))
    return x


@pytest.mark.parametrize('projector, num_parameters', [
    ('linear', 4 * 6 + 6),
    ('linear_no_bias', 4 * 6),
    ('mlp', (4 * 6 + 6) + (6 * 6 + 6)),
    ('mlp2', (4 * 6 + 6) + 3 * (6 * 6 + 6)),
])
def test_structure_and_value(projector, num_parameters):
    neck = build(projector)
    assert sum(p.numel() for p in neck.parameters()) == num_parameters
    x = torch.randn(2, 3, 4)
    output, = neck([x])
    assert output.shape == (2, 3, 6)
    torch.testing.assert_close(output,
                               by_hand(projector, neck.state_dict(), x))


def test_identity_returns_the_very_tensor():
    x = torch.randn(2, 3, 4)
    output, = build('identity', 4, 4)([x])
    assert output is x


def test_each_pair_has_its_own_projector():
    neck = build('linear', num_pairs=2)
    x = torch.randn(2, 3, 4)
    first, second = neck([x, x])
    assert not torch.allclose(first, second)


def test_identity_needs_equal_widths():
    with pytest.raises(ValueError, match="student is 4.*teacher 6.*'linear'"):
        build('identity')


def test_unknown_projector():
    with pytest.raises(
            ValueError, match="'conv'.*'linear', 'linear_no_bias', 'mlp'"):
        build('conv')


def test_initialisation_is_pytorchs_default_under_any_init_cfg(toy_model):
    """A model-wide Xavier init must not reach the projectors."""
    from mmpretrain.registry import MODELS
    toy_model.update(init_cfg=[
        dict(type='Constant', layer='Linear', val=7.0, bias=7.0),
    ])
    model = MODELS.build(toy_model)
    model.init_weights()
    assert (model.neck.decoder_pred.weight == 7).all()
    bound = 24**-0.5  # of nn.Linear(24, 32): uniform in +-1 / sqrt(fan_in)
    weight = model.distill_neck.projectors[0].weight
    assert weight.abs().max() <= bound
    assert weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.1)
    assert isinstance(model.distill_neck.projectors[0], nn.Linear)

    model.distill_neck.projectors[0].weight.data.fill_(1.)
    model.distill_neck.init_weights()  # a second call changes nothing
    assert (model.distill_neck.projectors[0].weight == 1).all()
