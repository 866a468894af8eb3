from typing import Any, Optional

import torch
import torch.distributed as dist
import torch.nn as nn
import torch.nn.functional as F
from mmpretrain.registry import MODELS

from dmae_mm.models.losses.feature_loss import without_autocast
from dmae_mm.options import reject_unknown_options

from .hadamard import hadamard


@MODELS.register_module()
@reject_unknown_options
class PHIStandardize(nn.Module):
    """Rotate the teacher's tokens so that every channel has variance 1.

    `PHI-S <https://arxiv.org/abs/2410.01680>`_ (of RADIO), section 3: with
    the mean :math:`\\mu` and the covariance :math:`U \\Lambda U^T` of the
    teacher's tokens on some images, C channels, and a Hadamard matrix
    :math:`H` with :math:`H H^T = 1`,

    .. math:: y = \\alpha H U^T (t - \\mu), \\qquad
              \\alpha = (\\mathrm{mean} \\, \\Lambda)^{-1/2}

    Every channel then has variance 1, while distances between tokens keep
    their ratios: this is one rotation and one scale. CLS and patches share
    the statistics. They are measured before the training, in each process on
    its part of the images, and are equal in all of them afterwards::

        for tokens in batches:          # (B, N, C)
            target.accumulate(tokens)
        target.finish()

    They are buffers, so a checkpoint has them.

    Args:
        embed_dims (int): Width of the teacher, C. A :class:`Distillation`
            fills it in.
        num_images (int): Images on which they are measured, of all processes
            together. These must have more than C tokens. Defaults to 1000.

    Attributes:
        mean (torch.Tensor): :math:`\\mu`, (C, ).
        matrix (torch.Tensor): :math:`\\alpha H U^T`, (C, C).
        is_fitted (torch.Tensor): Whether these have been measured.

    Raises:
        ValueError: If ``num_images`` has an illegal value, or there is no
            Hadamard matrix of the teacher's width.
    """

    def __init__(self, embed_dims: int, num_images: int = 1000) -> None:
        super().__init__()
        if isinstance(num_images, bool) or not isinstance(
                num_images, int) or num_images < 1:
            raise ValueError(f'target: num_images={num_images!r} is not an '
                             'int of at least 1.')
        if hadamard(embed_dims) is None:
            raise ValueError(
                'target: PHIStandardize cannot make a Hadamard matrix as '
                f'large as the teacher is wide, {embed_dims}. Choose '
                "target=dict(type='Standardize'), or another teacher.")
        self.num_images = num_images
        self.register_buffer('mean', torch.zeros(embed_dims))
        self.register_buffer('matrix', torch.eye(embed_dims))
        self.register_buffer('is_fitted', torch.tensor(False))
        self._fitted = False  # the same, where nothing may wait for a device
        self._sums: Optional[torch.Tensor] = None  # accumulated so far

    def fit(self, features: torch.Tensor) -> None:
        """Measure the statistics on features (n, C): both of the following."""
        self.accumulate(features)
        self.finish()

    @torch.no_grad()
    def accumulate(self, features: torch.Tensor) -> None:
        """Count in some tokens.

        Args:
            features (torch.Tensor): The teacher's, (..., C).
        """
        # With a channel of ones, so that the products of channels, summed
        # over tokens, have the number of tokens and their sum as well.
        features = F.pad(features.flatten(0, -2).double(), (1, 0), value=1.)
        sums = features.T @ features  # (1 + C, 1 + C)
        self._sums = sums if self._sums is None else self._sums + sums

    @torch.no_grad()
    def finish(self) -> None:
        """Take over the statistics of all tokens of all processes.

        To be called in all of them, also where no image was left for one.

        Raises:
            ValueError: If there are too few tokens, or their statistics are
                of no use.
        """
        if self._sums is None:
            self.accumulate(self.mean.new_empty(0, len(self.mean)))
        sums, self._sums = self._sums, None
        distributed = dist.is_available() and dist.is_initialized()
        if distributed:
            dist.all_reduce(sums)
        mean, covariance = _moments(sums.cpu(), self.num_images)
        eigenvalues, vectors = torch.linalg.eigh(covariance)
        # They are unique up to their signs; so take the one that makes the
        # largest entry positive.
        largest = vectors.gather(0, vectors.abs().argmax(dim=0, keepdim=True))
        vectors = vectors * largest.sign()
        variance = eigenvalues.clamp(min=0).mean()
        rotation = hadamard(len(mean)) @ vectors.T / len(mean)**0.5
        self.mean.copy_(mean)
        self.matrix.copy_(rotation / variance.sqrt())
        if distributed:  # to the bit, whatever machines these are
            dist.broadcast(self.mean, src=0)
            dist.broadcast(self.matrix, src=0)
        self.is_fitted.fill_(True)
        self._fitted = True

    @torch.no_grad()
    def forward(self, tokens: torch.Tensor, has_cls: bool) -> torch.Tensor:
        """Rotate and scale.

        Args:
            tokens (torch.Tensor): The teacher's, (B, [1+]N, C).
            has_cls (bool): Whether the first of them is CLS. Makes no
                difference here.

        Returns:
            torch.Tensor: (B, [1+]N, C), float32, under autocast too.

        Raises:
            RuntimeError: If the statistics have not been measured.
        """
        if not self._fitted:
            raise RuntimeError(
                'target: the statistics of PHIStandardize have not been '
                "measured. Add dict(type='CalibrationHook') to custom_hooks, "
                'which measures them before a training, or load a checkpoint '
                'that has them. Without a runner: call fit(features), or '
                'accumulate(features) and finish().')
        with without_autocast(tokens):
            return F.linear(
                tokens.to(self.mean.dtype) - self.mean, self.matrix)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._fitted = bool(self.is_fitted)

    def extra_repr(self) -> str:
        return f'embed_dims={len(self.mean)}, num_images={self.num_images}'


def _moments(sums: torch.Tensor, num_images: int) -> tuple:
    """Mean and unbiased covariance from accumulated sums, (1 + C, 1 + C)."""
    count, total, products = sums[0, 0], sums[0, 1:], sums[1:, 1:]
    if count <= len(total):
        raise ValueError(
            f'target: num_images={num_images} gave {count:.0f} tokens, but '
            f'statistics of {len(total)} channels need more than that many. '
            'Give a larger num_images.')
    mean = total / count
    covariance = (products - count * torch.outer(mean, mean)) / (count - 1)
    power = products.trace() / count
    # What is smaller than the rounding error is no variance.
    if not covariance.trace() > 1e-12 * power:
        raise ValueError(
            f"target: the teacher's {count:.0f} tokens of num_images="
            f'{num_images} are all the same, or not finite. Check its '
            'weights and the images.')
    return mean, covariance
