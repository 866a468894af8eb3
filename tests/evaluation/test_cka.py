"""Linear CKA: values by hand, what it ignores, and that it is unbiased."""
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dmae_mm.evaluation.cka import minibatch_cka, unbiased_hsic


def normal(*shape, seed=0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def hsic(first: torch.Tensor, second: torch.Tensor) -> float:
    """Of features, (n, C), in one sample."""
    return unbiased_hsic((first @ first.T)[None, None],
                         (second @ second.T)[None, None]).item()


def linear_cka(first: torch.Tensor, second: torch.Tensor) -> float:
    """Of features, (n, C) and (n, C'), in one minibatch."""
    return minibatch_cka([([first[None]], [second[None]])]).item()


def test_by_hand():
    """x = 0 0 1 1 and y = 0 1 0 1, four examples of one feature.

    Without diagonals, K has 1 at (3, 4) and (4, 3), and L at (2, 4) and
    (4, 2). tr(KL) = 0; 1'K1 = 1'L1 = 2; 1'KL1 = 1 (row 4). So HSIC(K, L) =
    (0 + 2 * 2 / (3 * 2) - 2 / 2 * 1) / (4 * 1) = -1/12, and HSIC(K, K) =
    (2 + 4 / 6 - 2) / 4 = 1/6 = HSIC(L, L). CKA = (-1/12) / (1/6).
    """
    x, y = torch.tensor([[0., 0, 1, 1], [0, 1, 0, 1]])[..., None]
    assert hsic(x, y) == pytest.approx(-1 / 12)
    assert hsic(x, x) == hsic(y, y) == pytest.approx(1 / 6)
    assert linear_cka(x, y) == pytest.approx(-1 / 2)


def test_minibatches_are_summed_before_they_are_divided():
    x, y = normal(3, 6, 2), normal(3, 6, 4, seed=1)
    cka = minibatch_cka([
        ([x[:1]], [y[:1]]),
        ([x[1:]], [y[1:]])  # two at once
    ])
    cross, ours, theirs = (sum(map(hsic, a, b))
                           for a, b in ((x, y), (x, x), (y, y)))
    assert cka.item() == pytest.approx(cross / (ours * theirs)**0.5)


def test_all_pairs_at_once_are_the_pairs():
    first = [normal(2, 7, 3, seed=i) for i in range(2)]
    second = [normal(2, 7, 5, seed=9 + i) + first[0][..., :1]
              for i in range(3)]
    cka = minibatch_cka([(first, second)])
    assert cka.shape == (2, 3)
    for i, j in itertools.product(range(2), range(3)):
        one = minibatch_cka([([first[i]], [second[j]])])
        torch.testing.assert_close(cka[i, j], one[0, 0])


def test_minibatches_are_unbiased():
    """The mean over all subsets of any size is the value of all examples.

    This holds exactly for an unbiased estimate, and for no biased one.
    """
    x = normal(7, 2)
    y = x @ normal(2, 3, seed=1) + normal(7, 3, seed=2)
    for size in (4, 5, 6):
        values = [
            hsic(x[list(subset)], y[list(subset)])
            for subset in itertools.combinations(range(7), size)
        ]
        assert sum(values) / len(values) == pytest.approx(hsic(x, y))


def test_unrelated_features_have_none_however_few_the_examples():
    """The biased estimate would be far above 0 with 8 examples."""
    cka = minibatch_cka([([normal(4000, 8, 5)], [normal(4000, 8, 5, seed=1)])])
    assert abs(cka.item()) < 0.02


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 1000),
    width=st.integers(1, 6),
    scale=st.floats(1e-3, 1e3),
    shift=st.floats(-1e3, 1e3))
def test_rotation_scale_and_shift_change_nothing(seed, width, scale, shift):
    x = normal(9, width, seed=seed)
    y = x[:, :1] + normal(9, 3, seed=seed + 1)
    rotation = torch.linalg.qr(normal(width, width, seed=seed + 2))[0]
    moved = scale * x @ rotation + shift
    assert linear_cka(moved, y) == pytest.approx(
        linear_cka(x, y), rel=1e-6, abs=1e-6)
    assert linear_cka(x, moved) == pytest.approx(1, abs=1e-6)


def test_other_linear_maps_do_change_it():
    x = normal(50, 4)
    assert linear_cka(x, x * torch.tensor([10., 1, 1, 1])) < 0.9


def test_what_is_undefined():
    with pytest.raises(ValueError, match='3 examples .* at least 4'):
        linear_cka(normal(3, 2), normal(3, 2))
    first, second = [normal(1, 8, 2), torch.ones(1, 8, 2)], [normal(1, 8, 2)]
    with pytest.raises(ValueError, match=r'first network .* blocks \[1\]'):
        minibatch_cka([(first, second)])
    with pytest.raises(ValueError, match=r'second network .* blocks \[0\]'):
        minibatch_cka([(first[:1], [second[0] * float('nan')])])
