from typing import Optional

import torch
from mmpretrain.registry import MODELS

from dmae_mm.options import reject_unknown_options

from .feature_alignment_loss import FeatureAlignmentLoss

POSITIONS = ('all', 'masked')


@MODELS.register_module()
@reject_unknown_options
class MaskedFeatureLoss(FeatureAlignmentLoss):
    """The student's decoder predicts the features of the teacher's decoder.

    The generic stage of `Generic-to-Specific Distillation of Masked
    Autoencoders <https://arxiv.org/abs/2302.14431>`_ (G2SD), section 3.2.
    Both are masked autoencoders and see the same patches. Compared are the
    outputs of decoder blocks, without the decoder's norm: the student's,
    projected to the teacher's width (in the paper by
    ``FeatureProjectionNeck(projector='mlp')``), with the teacher's after a
    LayerNorm without affine (eps 1e-6), by smooth L1 with beta 2.

    Args:
        positions (str): Whose tokens: 'all', CLS and all patches; or
            'masked', only the patches that neither side saw. Defaults to
            'all'.
        loss_weight (float): Factor of the loss, at least 0. Defaults to 1.0.

    Raises:
        ValueError: If an option has an illegal value.
    """

    tap = 'decoder'

    def __init__(self,
                 positions: str = 'all',
                 loss_weight: float = 1.0) -> None:
        super().__init__(
            'smooth_L1', normalize='layer', loss_weight=loss_weight, beta=2.0)
        if positions not in POSITIONS:
            raise ValueError(f'distill_loss: positions={positions!r} does not '
                             f'exist. Choose one of {list(POSITIONS)}.')
        self.positions = positions

    def forward(self,
                student: torch.Tensor,
                teacher: torch.Tensor,
                mask: Optional[torch.Tensor] = None) -> torch.Tensor:
        """Compare one pair of decoder features.

        Args:
            student (torch.Tensor): Projected student tokens, (B, [1+]L, C).
            teacher (torch.Tensor): Teacher tokens, (B, [1+]L, C), no
                gradient.
            mask (torch.Tensor, optional): 1 where a patch is masked, (B, L),
                in the order of the tokens. Only read with
                ``positions='masked'``; each image must then have masked
                patches. Defaults to None.

        Returns:
            torch.Tensor: The weighted loss, a scalar of at least float32.

        Raises:
            ValueError: If the shapes differ, or the mask is missing.
        """
        return self.per_image(student, teacher, mask).mean()

    def per_image(self,
                  student: torch.Tensor,
                  teacher: torch.Tensor,
                  mask: Optional[torch.Tensor] = None) -> torch.Tensor:
        """The same of each image, (B,); the mean of that is the loss."""
        tokens = self._distance(student, teacher, 'none')  # (B, [1+]L)
        if self.positions == 'all':
            return self.loss_weight * tokens.mean(dim=1)
        if mask is None or mask.shape[1] not in (tokens.shape[1],
                                                 tokens.shape[1] - 1):
            raise ValueError(
                "distill_loss: positions='masked' needs a mask, 1 where a "
                f'patch is masked, of as many patches as there are tokens, '
                f'{tokens.shape[1]}, or one fewer beside CLS, and got '
                f'{"none" if mask is None else tuple(mask.shape)}.')
        patches = tokens[:, -mask.shape[1]:]
        return self.loss_weight * (patches * mask).sum(dim=1) / mask.sum(dim=1)

    def extra_repr(self) -> str:
        return f'positions={self.positions!r}, loss_weight={self.loss_weight}'
