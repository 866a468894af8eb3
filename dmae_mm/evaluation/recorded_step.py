"""A masked autoencoder's training step, and what passes between its parts."""
import contextlib
from dataclasses import dataclass
from typing import Any, Dict, Iterator, Optional, Tuple

import torch
import torch.nn as nn
from torch.overrides import TorchFunctionMode

from dmae_mm.models.tokens import visible_ids


@dataclass(frozen=True)
class RecordedStep:
    """What the parts of a model returned.

    Attributes:
        mask (torch.Tensor): 1 where a patch is hidden, (B, L).
        ids_keep (torch.Tensor): Indices of the visible patches, (B, K).
        prediction (torch.Tensor | tuple): What the decoder returned.
        aligned (dict[str, tuple[torch.Tensor, torch.Tensor]]): For each
            aligned pair, such as 's8_t17', the projected student's and the
            teacher's tokens as the loss gets them, (B, N, C).
    """
    mask: torch.Tensor
    ids_keep: torch.Tensor
    prediction: Any
    aligned: Dict[str, Tuple[torch.Tensor, torch.Tensor]]


def record_step(model: nn.Module, inputs: torch.Tensor,
                noise: torch.Tensor) -> RecordedStep:
    """Compute a model's losses with a given mask, and record.

    The model is called as in training, so that what is recorded is what the
    losses are computed from, and so that it works with sharded parameters.

    Args:
        model (nn.Module): A :class:`DMAE` or mmpretrain's ``MAE``.
        inputs (torch.Tensor): Normalised images, (B, C, H, W).
        noise (torch.Tensor): A number for each patch, (B, L); the smallest
            are those of the visible patches.

    Returns:
        RecordedStep: The record.

    Raises:
        ValueError: If the backbone draws its mask in another way than
            mmpretrain's.
    """
    with _recorded(model) as seen, _MaskNoise(noise) as mask_noise:
        model(inputs, None, mode='loss')
    if not mask_noise.was_used:
        raise ValueError(
            f'model.backbone, a {type(model.backbone).__name__}, does not '
            "draw its mask as mmpretrain's MAEViT and MAEHiViT do, so it "
            'cannot be given a fixed one.')
    latent, mask, ids_restore = seen['backbone']
    num_visible = latent.shape[1] - model.backbone.num_extra_tokens
    names = [
        name[len('loss_align_'):] for name in getattr(
            getattr(model, 'distillation', None), 'loss_names', [])
    ]
    return RecordedStep(
        mask=mask,
        ids_keep=visible_ids(ids_restore, num_visible),
        prediction=seen['neck'],
        aligned=dict(zip(names, seen['pairs'])))


class _MaskNoise(TorchFunctionMode):
    """Hands out given numbers where a backbone asks for random ones.

    MAE shows the patches of the smallest of L random numbers.

    Args:
        noise (torch.Tensor): What ``torch.rand`` of this shape returns.
    """

    def __init__(self, noise: torch.Tensor) -> None:
        super().__init__()
        self.noise = noise
        self.was_used = False

    def __torch_function__(self,
                           func: Any,
                           types: Any,
                           args: tuple = (),
                           kwargs: Optional[dict] = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.rand and args == tuple(self.noise.shape):
            self.was_used = True
            return self.noise.to(kwargs.get('device'))
        return func(*args, **kwargs)


@contextlib.contextmanager
def _recorded(model: nn.Module) -> Iterator[dict]:
    """What backbone and neck return, and what the alignment loss gets."""
    seen: Dict[str, Any] = dict(pairs=[])
    handles = [
        part.register_forward_hook(
            lambda module, args, output, name=name: seen.update({name: output})
        ) for name, part in (('backbone', model.backbone), ('neck',
                                                            model.neck))
    ]
    if getattr(model, 'distill_loss', None) is not None:
        handles.append(
            model.distill_loss.register_forward_pre_hook(
                lambda module, args: seen['pairs'].append(args)))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
