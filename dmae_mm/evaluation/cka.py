"""How similar are the features of two networks? Linear CKA, by minibatches."""
from typing import Sequence

import torch

MIN_EXAMPLES = 4  # below, the unbiased estimator does not exist


def unbiased_hsic(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Unbiased estimates of HSIC, the independence criterion, of all pairs.

    :math:`\\mathrm{HSIC}_1` of Song et al., 2012, `Feature Selection via
    Dependence Maximization <https://jmlr.org/papers/v13/song12a.html>`_: with
    Gram matrices :math:`K, L` of n examples whose diagonals are set to 0,

    .. math:: \\frac{1}{n (n - 3)} \\left( \\mathrm{tr}(K L) + \\frac{1^T K 1
              \\, 1^T L 1}{(n - 1)(n - 2)} - \\frac{2}{n - 2} 1^T K L 1
              \\right)

    Args:
        first (torch.Tensor): Gram matrices of G samples in A feature spaces,
            (A, G, n, n). n is at least 4.
        second (torch.Tensor): Those of the same samples in B feature spaces,
            (B, G, n, n).

    Returns:
        torch.Tensor: The mean over the G samples, (A, B).
    """
    n = first.shape[-1]
    first, second = (gram - torch.diag_embed(gram.diagonal(dim1=-2, dim2=-1))
                     for gram in (first, second))
    trace = torch.einsum('agij,bgij->ab', first, second)
    rows, columns = first.sum(-1), second.sum(-1)  # (A, G, n), (B, G, n)
    sums = torch.einsum('ag,bg->ab', rows.sum(-1), columns.sum(-1))
    product = torch.einsum('agi,bgi->ab', rows, columns)
    total = trace + sums / ((n - 1) * (n - 2)) - 2 / (n - 2) * product
    return total / (n * (n - 3)) / first.shape[1]


class MinibatchCKA:
    """Linear CKA between all blocks of one network and all of another.

    Nguyen, Raghu and Kornblith, 2021, `Do Wide and Deep Networks Learn the
    Same Things? <https://arxiv.org/abs/2010.15327>`_: each of the
    three HSIC is summed over minibatches, then divided,

    .. math:: \\mathrm{CKA} = \\frac{\\sum_i \\mathrm{HSIC}_1(K_i, L_i)}
              {\\sqrt{\\sum_i \\mathrm{HSIC}_1(K_i, K_i)}
               \\sqrt{\\sum_i \\mathrm{HSIC}_1(L_i, L_i)}}

    Each estimate of HSIC is unbiased whatever the size of the minibatches is,
    so that small ones are noisier but not systematically off. An unbiased
    estimate of something near 0 can be negative, and so can CKA.

    What is kept are three small matrices, however many examples there are.

    Args:
        first_blocks (int): Blocks of the first network, A.
        second_blocks (int): Blocks of the second network, B.
    """

    def __init__(self, first_blocks: int, second_blocks: int) -> None:
        self._cross = torch.zeros(
            first_blocks, second_blocks, dtype=torch.float64)
        self._first = torch.zeros(first_blocks, dtype=torch.float64)
        self._second = torch.zeros(second_blocks, dtype=torch.float64)

    def update(self, first: Sequence[torch.Tensor],
               second: Sequence[torch.Tensor]) -> None:
        """Add minibatches.

        Args:
            first (Sequence[torch.Tensor]): The first network's features, for
                each block (G, n, C): G minibatches of n examples.
            second (Sequence[torch.Tensor]): The second network's, of the same
                examples, for each block (G, n, C').

        Raises:
            ValueError: If a minibatch has fewer than 4 examples.
        """
        count = first[0].shape[1]
        if count < MIN_EXAMPLES:
            raise ValueError(f'A minibatch of {count} examples is too small '
                             f'for CKA: it needs at least {MIN_EXAMPLES}.')
        ours, theirs = (torch.stack([_gram(feature) for feature in features])
                        for features in (first, second))
        groups = ours.shape[1]
        self._cross += groups * unbiased_hsic(ours, theirs).cpu()
        for kept, grams in ((self._first, ours), (self._second, theirs)):
            for index, gram in enumerate(grams.split(1)):
                kept[index] += groups * unbiased_hsic(gram, gram).item()

    def result(self) -> torch.Tensor:
        """CKA of what has been added.

        Returns:
            torch.Tensor: (A, B), float64.

        Raises:
            ValueError: If a block's features do not vary, or are not finite.
        """
        for owner, kept in (('first', self._first), ('second', self._second)):
            wrong = [
                index for index, value in enumerate(kept.tolist())
                if not 0 < value < float('inf')
            ]
            if wrong:
                raise ValueError(
                    f'CKA of the {owner} network is undefined for its blocks '
                    f'{wrong}: their features are constant, not finite, or '
                    'there are too few examples.')
        return self._cross / (
            self._first.sqrt()[:, None] * self._second.sqrt())


def _gram(features: torch.Tensor) -> torch.Tensor:
    """Linear kernels, (G, n, n), float64, of features (G, n, C).

    Centring changes nothing but rounding errors: features have large means.
    """
    features = features.double()
    features = features - features.mean(dim=1, keepdim=True)
    return features @ features.transpose(1, 2)


def linear_cka(first: torch.Tensor, second: torch.Tensor) -> float:
    """CKA of two sets of features in one minibatch, unbiased as above.

    Args:
        first (torch.Tensor): (n, C).
        second (torch.Tensor): Of the same examples, (n, C').

    Returns:
        float: CKA.
    """
    cka = MinibatchCKA(1, 1)
    cka.update([first[None]], [second[None]])
    return cka.result().item()
