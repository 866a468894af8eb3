"""How similar are the features of two networks? Linear CKA, by minibatches."""
from typing import Iterable, Sequence, Tuple

import torch

MIN_EXAMPLES = 4  # below, the unbiased estimator does not exist
# For each block (G, n, C): G minibatches of n examples.
BlockOutputs = Sequence[torch.Tensor]


def minibatch_cka(
        features: Iterable[Tuple[BlockOutputs, BlockOutputs]]) -> torch.Tensor:
    """Linear CKA between all blocks of one network and all of another.

    Nguyen, Raghu and Kornblith, 2021, `Do Wide and Deep Networks Learn the
    Same Things? <https://arxiv.org/abs/2010.15327>`_: each of the
    three HSIC is summed over minibatches, then divided,

    .. math:: \\mathrm{CKA} = \\frac{\\sum_i \\mathrm{HSIC}_1(K_i, L_i)}
              {\\sqrt{\\sum_i \\mathrm{HSIC}_1(K_i, K_i)}
               \\sqrt{\\sum_i \\mathrm{HSIC}_1(L_i, L_i)}}

    Each estimate of HSIC is unbiased whatever the size of the minibatches is,
    so that small ones are noisier but not systematically off. An unbiased
    estimate of something near 0 can be negative, and so can CKA. What is kept
    are three small matrices, however many examples there are.

    Args:
        features (Iterable[tuple]): The first network's features, for each of
            A blocks (G, n, C): G minibatches of n examples; and the second
            network's, of the same examples, for each of B blocks (G, n, C').

    Returns:
        torch.Tensor: (A, B), float64.

    Raises:
        ValueError: If a minibatch has fewer than 4 examples, or if a block's
            features do not vary, or are not finite.
    """
    cross, ours, theirs = torch.zeros(3, 1, dtype=torch.float64)
    for first, second in features:
        groups, count, _ = first[0].shape
        if count < MIN_EXAMPLES:
            raise ValueError(f'A minibatch of {count} examples is too small '
                             f'for CKA: it needs at least {MIN_EXAMPLES}.')
        first, second = (torch.stack([_gram(block) for block in blocks])
                         for blocks in (first, second))
        cross = cross + groups * unbiased_hsic(first, second).cpu()
        ours = ours + groups * _own_hsic(first)
        theirs = theirs + groups * _own_hsic(second)
    for owner, kept in (('first', ours), ('second', theirs)):
        wrong = [
            index for index, value in enumerate(kept.tolist())
            if not 0 < value < float('inf')
        ]
        if wrong:
            raise ValueError(
                f'CKA of the {owner} network is undefined for its blocks '
                f'{wrong}: their features are constant, not finite, or there '
                'are too few examples.')
    return cross / (ours.sqrt()[:, None] * theirs.sqrt())


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


def _own_hsic(grams: torch.Tensor) -> torch.Tensor:
    """Of each feature space with itself, (A, )."""
    return torch.cat(
        [unbiased_hsic(gram, gram)[0] for gram in grams.split(1)]).cpu()


def _gram(features: torch.Tensor) -> torch.Tensor:
    """Linear kernels, (G, n, n), float64, of features (G, n, C).

    Centring changes nothing but rounding errors: features have large means.
    """
    features = features.double()
    features = features - features.mean(dim=1, keepdim=True)
    return features @ features.transpose(1, 2)
