import pytest
import torch

from dmae_mm.models.targets.hadamard import hadamard

# Of vision transformers, and small ones: powers of two; Paley's I on 11, 19,
# 43 and 103; his II on 5, 13, 17 and 29.
WIDTHS = [
    1, 2, 4, 8, 12, 16, 20, 28, 36, 44, 48, 60, 64, 96, 160, 192, 320, 384,
    448, 512, 576, 640, 768, 896, 1024, 1152, 1280, 1408, 1536, 1664
]


@pytest.mark.parametrize('order', WIDTHS)
def test_rows_are_orthogonal(order):
    matrix = hadamard(order)
    assert matrix.shape == (order, order)
    assert set(matrix.unique().tolist()) <= {1., -1.}
    # In single precision these integers are exact, too, and it is faster.
    product = matrix.float() @ matrix.float().T
    assert torch.equal(product, order * torch.eye(order))


@pytest.mark.parametrize('order', [3, 6, 24 + 1, 50, 92, 100])
def test_none_is_made(order):
    """There are none but of 1, 2 and multiples of 4; some take other ways."""
    assert hadamard(order) is None


def test_by_hand():
    """Paley's I on 3: 1 is a square, 2 is not."""
    assert hadamard(2).tolist() == [[1, 1], [1, -1]]
    assert hadamard(4).tolist() == [[1, 1, 1, 1], [1, -1, 1, -1],
                                    [1, 1, -1, -1], [1, -1, -1, 1]]
