import copy

import pytest
import torch

from dmae_mm.models import PHIStandardize
from dmae_mm.models.targets.hadamard import hadamard
from tests.toys.golden import assert_golden, read_golden


def features(num=100, width=12, seed=0):
    """Tokens whose channels differ in size and are correlated."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(width, width, generator=generator)
    return torch.randn(num, width, generator=generator) @ mix * 5 + 3


def fitted(tokens, **options):
    target = PHIStandardize(tokens.shape[-1], **options)
    target.fit(tokens)
    return target


def test_equals_the_reference():
    """Eigenvectors are unique up to signs: compare what is free of them."""
    golden, _ = read_golden('phi_s_a')
    target = fitted(golden['features'])
    assert_golden(target.mean, golden['mean'].float())
    # A rotation H U^T times the scale.
    assert_golden(target.matrix @ target.matrix.T,
                  golden['scale'].square().float() * torch.eye(16))
    ours = target(golden['features'][None], has_cls=False)[0]
    assert_golden(torch.cov(ours.double().T).diagonal(),
                  golden['covariance_diagonal'])
    assert_golden(torch.pdist(ours), torch.pdist(golden['standardised']))
    # Both are H U^T with the same H.
    rotation = hadamard(16) / 4
    same = (rotation.T @ target.matrix.double()) @ (
        rotation.T @ golden['matrix']).T
    assert_golden(same.abs(), golden['scale'].square() *
                  torch.eye(16, dtype=torch.float64))


def test_by_hand():
    """Uncorrelated channels of variance 4 and 16 around (1, 2)."""
    corners = torch.tensor([[1., 1], [1, -1], [-1, 1], [-1, -1]])
    scale = torch.tensor([3.**.5, 12**.5])  # of 4 tokens: 3 / 4 of 4 and 16
    tokens = corners * scale + torch.tensor([1., 2])
    target = fitted(tokens)
    torch.testing.assert_close(target.mean, torch.tensor([1., 2]))
    # Ascending eigenvalues 4 and 16, mean 10; H = [[1, 1], [1, -1]] / 2^.5.
    wanted = torch.tensor([[1., 1], [1, -1]]) / 20**.5
    torch.testing.assert_close(target.matrix, wanted)
    torch.testing.assert_close(
        target(tokens[None], False)[0].var(dim=0), torch.ones(2))


@pytest.mark.parametrize('width', [12, 16, 20, 28])
def test_variances_are_one_and_distances_keep_their_ratios(width):
    tokens = features(width=width)
    ours = fitted(tokens)(tokens[None], has_cls=True)[0]
    torch.testing.assert_close(
        ours.mean(0), torch.zeros(width), rtol=0, atol=1e-4)
    torch.testing.assert_close(ours.var(0), torch.ones(width), rtol=1e-4,
                               atol=0)
    ratios = torch.pdist(ours) / torch.pdist(tokens)
    torch.testing.assert_close(ratios, ratios[:1].expand_as(ratios))


def test_batches_give_what_all_tokens_give():
    tokens = features(120)
    target = PHIStandardize(12)
    for batch in tokens.reshape(4, 3, 10, 12):  # images and their tokens
        target.accumulate(batch)
    target.finish()
    wanted = fitted(tokens)
    torch.testing.assert_close(target.mean, wanted.mean)
    torch.testing.assert_close(target.matrix, wanted.matrix)
    with torch.random.fork_rng():
        order = torch.randperm(120)
    torch.testing.assert_close(fitted(tokens[order]).matrix, wanted.matrix)


def test_a_second_fit_forgets_the_first():
    target = fitted(features(seed=1))
    target.fit(features())
    assert torch.equal(target.matrix, fitted(features()).matrix)


def test_signs_do_not_depend_on_the_solver(monkeypatch):
    wanted = fitted(features()).matrix
    solve = torch.linalg.eigh

    def flipped(matrix):
        values, vectors = solve(matrix)
        return values, vectors * torch.tensor([1., -1.]).repeat(6)

    monkeypatch.setattr(torch.linalg, 'eigh', flipped)
    assert torch.equal(fitted(features()).matrix, wanted)


def test_channels_that_never_vary():
    """The covariance has not full rank, and rounding makes it indefinite."""
    tokens = features()
    tokens[:, 6:] = tokens[:, :6] + 100
    ours = fitted(tokens)(tokens[None], False)[0]
    torch.testing.assert_close(ours.var(0), torch.ones(12), rtol=1e-3, atol=0)


def test_nothing_before_the_fit():
    target = PHIStandardize(12)
    with pytest.raises(RuntimeError, match='measured. Add dict.*Hook'):
        target(torch.zeros(1, 2, 12), False)
    assert not target.is_fitted
    target.fit(features())
    assert target.is_fitted


def test_state_dict_round_trip():
    tokens = features()
    target = fitted(tokens)
    assert set(target.state_dict()) == {'mean', 'matrix', 'is_fitted'}
    resumed = PHIStandardize(12)
    resumed.load_state_dict(copy.deepcopy(target.state_dict()))
    assert torch.equal(resumed(tokens[None], False),
                       target(tokens[None], False))
    resumed.load_state_dict(PHIStandardize(12).state_dict())
    with pytest.raises(RuntimeError, match='not been measured'):
        resumed(tokens[None], False)


def test_float32_under_autocast():
    tokens = features()[None]
    target = fitted(tokens[0])
    with torch.autocast('cpu', torch.bfloat16):
        ours = target(tokens, False)
        half = target(tokens.bfloat16(), False)
    assert torch.equal(ours, target(tokens, False))
    assert half.dtype == torch.float32


def test_compiles_to_one_graph():
    tokens = features()[None]
    target = fitted(tokens[0])
    compiled = torch.compile(target, backend='eager', fullgraph=True)
    assert torch.equal(compiled(tokens, True), target(tokens, True))


@pytest.mark.parametrize('tokens, message', [
    (features(12), 'num_images=3 gave 12 tokens.*12 channels.*larger'),
    (torch.empty(0, 12), 'gave 0 tokens'),
    (torch.full((50, 12), 7.3), '50 tokens of num_images=3 are all the same'),
    (torch.full((50, 12), torch.nan), 'all the same, or not finite'),
])
def test_too_little_to_measure(tokens, message):
    with pytest.raises(ValueError, match=message):
        fitted(tokens, num_images=3)


def test_nothing_to_measure():
    with pytest.raises(ValueError, match='num_images=1000 gave 0 tokens'):
        PHIStandardize(12).finish()


@pytest.mark.parametrize('options, message', [
    (dict(embed_dims=16, num_images=0), 'num_images=0 is not an int'),
    (dict(embed_dims=16, num_images=1.5), 'num_images=1.5'),
    (dict(embed_dims=92), 'Hadamard.*teacher is wide, 92.*Standardize'),
])
def test_illegal_values(options, message):
    with pytest.raises(ValueError, match=message):
        PHIStandardize(**options)


def test_unknown_option():
    with pytest.raises(TypeError, match='images=2.*num_images'):
        PHIStandardize(16, images=2)
