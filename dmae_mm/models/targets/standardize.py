import math
from typing import Any, Dict, Optional, Tuple, Union

import torch
import torch.distributed as dist
import torch.nn as nn
from mmpretrain.registry import MODELS

from dmae_mm.options import is_finite_number, reject_unknown_options

EPS = 1e-6


@MODELS.register_module()
@reject_unknown_options
class Standardize(nn.Module):
    """Standardise the teacher's tokens per channel by running statistics.

    `UNIC <https://arxiv.org/abs/2408.05088>`_, section 3.2, so that no
    channel, and of several teachers none, weighs more because its numbers are
    larger. Of CLS and of the patches separately,

    .. math:: y = (t - \\mu) / (\\sigma + 10^{-6})

    with statistics that start at 0 and 1. A training step uses them, and then
    updates them: :math:`\\mu \\leftarrow (1 - m) \\mu + m
    \\mu_{batch}`, :math:`\\sigma` likewise. Those of the batch are the mean
    and the unbiased standard deviation (plus 1e-6) over images and tokens of
    all processes, so all of them hold the same. The statistics are buffers:
    a checkpoint has them, and a resumed training goes on exactly.

    Args:
        embed_dims (int): Width of the teacher, C. A :class:`Distillation`
            fills it in.
        momentum (float | dict): The share :math:`m` of the batch, above 0 and
            up to 1: a number, or ``dict(start=, end=, steps=)``: along a
            cosine from ``start`` to ``end`` in so many training steps, then
            ``end``. In UNIC those are all steps of the training. Defaults to
            ``dict(start=1.0, end=0.001, steps=1000)``. With ``start=1.0`` the
            first step's targets are the teacher's raw tokens, and its
            statistics forgotten at once what they started at.

    Attributes:
        mean (torch.Tensor): :math:`\\mu` of CLS and of the patches, (2, C).
        std (torch.Tensor): :math:`\\sigma` likewise.
        num_updates (torch.Tensor): Training steps so far, int64.

    Raises:
        ValueError: If ``momentum`` has an illegal value.
    """

    def __init__(
        self,
        embed_dims: int,
        momentum: Union[float, Dict[str, float]] = dict(
            start=1.0, end=0.001, steps=1000)
    ) -> None:
        super().__init__()
        _check_momentum(momentum)
        self.momentum = momentum
        self.register_buffer('mean', torch.zeros(2, embed_dims))
        self.register_buffer('std', torch.ones(2, embed_dims))
        self.register_buffer('num_updates', torch.tensor(0))

    @torch.no_grad()
    def forward(self, tokens: torch.Tensor, has_cls: bool) -> torch.Tensor:
        """Standardise, and in training mode learn the statistics.

        Args:
            tokens (torch.Tensor): The teacher's, (B, [1+]N, C).
            has_cls (bool): Whether the first of them is CLS.

        Returns:
            torch.Tensor: (B, [1+]N, C), float32.
        """
        tokens = tokens.to(self.mean.dtype)
        parts = {1: tokens[:, int(has_cls):]}  # by the row of the statistics
        if has_cls:
            parts = {0: tokens[:, :1], **parts}
        standardised = torch.cat([
            (part - self.mean[row]) / (self.std[row] + EPS)
            for row, part in parts.items()
        ], dim=1)
        if self.training:
            momentum = self._momentum()
            for row, part in parts.items():
                batch = _statistics_of_batch(part)
                if batch is not None:
                    _update(self.mean[row], batch[0], momentum)
                    _update(self.std[row], batch[1], momentum)
            self.num_updates += 1
        return standardised

    def _momentum(self) -> Union[float, torch.Tensor]:
        """That of this step; on a schedule a tensor, to wait for nothing."""
        if not isinstance(self.momentum, dict):
            return self.momentum
        start, end, steps = (
            self.momentum[name] for name in ('start', 'end', 'steps'))
        progress = (self.num_updates / steps).clamp(max=1)
        return end + (start - end) * (1 + torch.cos(math.pi * progress)) / 2

    def extra_repr(self) -> str:
        return f'embed_dims={self.mean.shape[1]}, momentum={self.momentum}'


def _update(running: torch.Tensor, batch: torch.Tensor,
            momentum: Union[float, torch.Tensor]) -> None:
    """Go on, but not from a broken image: that would spoil all later steps.

    A :class:`FiniteLossHook` leaves out its step.
    """
    running.copy_(
        torch.where(batch.isfinite(), running.lerp(batch, momentum), running))


def _statistics_of_batch(
        tokens: torch.Tensor
) -> Optional[Tuple[torch.Tensor, torch.Tensor]]:
    """Mean and standard deviation over tokens (B, N, C) of all processes.

    None if there is only one token, which has no deviation: CLS, where a
    batch is one image. Its statistics stay.
    """
    count = tokens.shape[0] * tokens.shape[1]
    processes = dist.get_world_size() if (
        dist.is_available() and dist.is_initialized()) else 1
    if count == processes == 1:
        return None
    variance, mean = torch.var_mean(tokens, dim=(0, 1), correction=0)
    if processes > 1:
        # In float64, so that the difference below loses nothing.
        mean, variance = mean.double(), variance.double()
        sums = count * torch.stack(
            [torch.ones_like(mean), mean, variance + mean.square()])
        dist.all_reduce(sums)
        count = sums[0]
        mean, squares = sums[1:] / count
        variance = (squares - mean.square()).clamp(min=0)
    std = (variance * count / (count - 1)).sqrt() + EPS
    return mean.to(tokens.dtype), std.to(tokens.dtype)


def _check_momentum(momentum: Any) -> None:
    values = momentum if isinstance(momentum, dict) else dict(start=momentum)
    if isinstance(momentum, dict):
        steps = momentum.get('steps')
        if momentum.keys() != {'start', 'end', 'steps'} or not isinstance(
                steps, int) or isinstance(steps, bool) or steps < 1:
            raise ValueError(
                f'target: momentum={momentum!r} is neither a number nor a '
                'dict of start, end and steps, an int of at least 1.')
    for name in values.keys() - {'steps'}:
        value = values[name]
        if not is_finite_number(value) or not 0 < value <= 1:
            raise ValueError(
                f'target: momentum={momentum!r}: {value!r} is not a number '
                'above 0 and up to 1.')
