from typing import Optional

import torch


def hadamard(order: int) -> Optional[torch.Tensor]:
    """A matrix H of entries 1 and -1 with H H^T = order times the identity.

    Either construction of `Paley
    <https://doi.org/10.1002/sapm1933121311>`_ (1933) on a prime, from the
    smallest that does, doubled (Sylvester) up to the order. That makes all
    powers of two and all usual widths of vision transformers.

    Args:
        order (int): Number of rows, at least 1.

    Returns:
        torch.Tensor | None: (order, order), float64. None if it cannot be
        made so.
    """
    core = order
    while core % 2 == 0:
        core //= 2
    while core <= order:
        matrix = torch.ones(1, 1).double() if core == 1 else _paley(core)
        if matrix is not None:
            double = torch.tensor([[1., 1.], [1., -1.]], dtype=torch.float64)
            while len(matrix) < order:
                matrix = torch.kron(double, matrix)
            return matrix
        core *= 2
    return None


def _paley(order: int) -> Optional[torch.Tensor]:
    """Paley's matrix of this order, I or II, if there is one on a prime."""
    for q, remainder in ((order - 1, 3), (order // 2 - 1, 1)):
        if order % 4 or q % 4 != remainder or not _is_prime(q):
            continue
        residues = torch.arange(q)
        character = -torch.ones(q, dtype=torch.float64)
        character[residues.square() % q] = 1
        character[0] = 0
        border = torch.ones(q + 1, q + 1, dtype=torch.float64)
        border[1:, 1:] = character[(residues[:, None] - residues) % q]
        border[0, 0] = 0
        identity = torch.eye(q + 1, dtype=torch.float64)
        if remainder == 3:  # I: the core is skew-symmetric
            border[1:, 0] = -1
            return identity + border
        plus = torch.tensor([[1., 1.], [1., -1.]], dtype=torch.float64)
        minus = torch.tensor([[1., -1.], [-1., -1.]], dtype=torch.float64)
        return torch.kron(border, plus) + torch.kron(identity, minus)
    return None


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor
                              for divisor in range(2, int(number**.5) + 1))
