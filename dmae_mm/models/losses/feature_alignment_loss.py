from typing import Optional

import torch
import torch.nn as nn
import torch.nn.functional as F
from mmpretrain.registry import MODELS

from dmae_mm.options import is_finite_number, reject_unknown_options

CRITERIA = ('L1', 'L2', 'smooth_L1', 'cosine')


@MODELS.register_module()
@reject_unknown_options
class FeatureAlignmentLoss(nn.Module):
    """Distance between projected student features and teacher features.

    The distillation term of `Masked Autoencoders Enable Efficient Knowledge
    Distillers <https://arxiv.org/abs/2208.12256>`_, section 3.2: with
    :math:`s` the projected student tokens, :math:`t` the teacher's and
    :math:`\\hat{x} = x / \\|x\\|_2` along the channels,

    .. math:: L = w \\cdot \\mathrm{mean}_{b, n, c}
              \\, d(\\hat{s}_{bnc}, \\hat{t}_{bnc})

    where :math:`d` is the absolute ('L1') or the squared ('L2') difference.
    Added here: 'smooth_L1' is :math:`x^2 / 2\\beta` for absolute
    differences :math:`x` below :math:`\\beta` and :math:`x - \\beta / 2` from
    there on (Girshick, 2015, `Fast R-CNN
    <https://arxiv.org/abs/1504.08083>`_, equation 3 for 1), and 'cosine' is
    :math:`L = w \\cdot \\mathrm{mean}_{b, n} (1 - \\hat{s}_{bn} \\cdot
    \\hat{t}_{bn})`. That is C / 2 times 'L2' on normalised features of C
    channels, so the two differ in the weight of the term, not in its minimum.
    Half-precision features are compared in float32.

    Args:
        criterion (str): 'L1', 'L2', 'smooth_L1' or 'cosine'. Defaults to
            'L1'.
        normalize (bool): L2-normalise every token along its channels first.
            'cosine' always does. Defaults to True.
        loss_weight (float): The factor :math:`w`, at least 0.
            Defaults to 1.0.
        beta (float, optional): Where 'smooth_L1' turns from squared to
            absolute differences, above 0. Elements of normalised tokens are
            about 1 / sqrt(C), so with PyTorch's 1 it would just be 'L2' / 2.
            Defaults to None: 1 / sqrt(C) with ``normalize``, else 1. (G2SD
            has 2 on layer-normalised features, whose elements are about 1;
            that is 2 / sqrt(C) here.)

    Raises:
        ValueError: If an option has an illegal value, or ``normalize=False``
            or ``beta`` is given to a criterion that would not read it.
    """

    def __init__(self,
                 criterion: str = 'L1',
                 normalize: bool = True,
                 loss_weight: float = 1.0,
                 beta: Optional[float] = None) -> None:
        super().__init__()
        if criterion not in CRITERIA:
            raise ValueError(
                f'distill_loss: criterion={criterion!r} does not exist. '
                f'Choose one of {list(CRITERIA)}.')
        if not isinstance(normalize, bool):
            raise ValueError(f'distill_loss: normalize={normalize!r} is not '
                             'a bool. Choose True or False.')
        if criterion == 'cosine' and not normalize:
            raise ValueError(
                "distill_loss: normalize=False with criterion='cosine' would "
                'change nothing: the cosine of two tokens does not depend on '
                'their lengths. Remove it, or choose another criterion.')
        if not is_finite_number(loss_weight) or loss_weight < 0:
            raise ValueError(f'distill_loss: loss_weight={loss_weight!r} is '
                             'not a finite number of at least 0.')
        if beta is not None and criterion != 'smooth_L1':
            raise ValueError(
                f'distill_loss: beta={beta!r} belongs to '
                f"criterion='smooth_L1'; criterion={criterion!r} does not "
                'read it. Remove one of them.')
        if beta is not None and (not is_finite_number(beta) or beta <= 0):
            raise ValueError(f'distill_loss: beta={beta!r} is not a finite '
                             'number above 0. For 0, which is the absolute '
                             "difference, choose criterion='L1'.")
        self.criterion = criterion
        self.normalize = normalize
        self.loss_weight = loss_weight
        self.beta = beta

    def forward(self, student: torch.Tensor,
                teacher: torch.Tensor) -> torch.Tensor:
        """Compare one pair of features.

        Args:
            student (torch.Tensor): Projected student tokens, (B, N, C).
            teacher (torch.Tensor): Teacher tokens, (B, N, C), no gradient.

        Returns:
            torch.Tensor: The weighted loss, a scalar of at least float32.

        Raises:
            ValueError: If the shapes differ (they would broadcast).
        """
        if student.shape != teacher.shape:
            raise ValueError(
                f'The projected student features have shape '
                f'{tuple(student.shape)}, the teacher features '
                f'{tuple(teacher.shape)}; they must be equal.')
        student = student.to(torch.promote_types(student.dtype, torch.float32))
        teacher = teacher.to(student.dtype)
        if self.normalize:
            student = F.normalize(student, dim=-1)
            teacher = F.normalize(teacher, dim=-1)
        return self.loss_weight * self._distance(student, teacher)

    def _distance(self, student: torch.Tensor,
                  teacher: torch.Tensor) -> torch.Tensor:
        if self.criterion == 'L1':
            return F.l1_loss(student, teacher)
        if self.criterion == 'L2':
            return F.mse_loss(student, teacher)
        if self.criterion == 'cosine':
            return (1 - (student * teacher).sum(dim=-1)).mean()
        beta = self.beta
        if beta is None:
            beta = student.shape[-1]**-0.5 if self.normalize else 1.0
        return F.smooth_l1_loss(student, teacher, beta=beta)

    def extra_repr(self) -> str:
        beta = '' if self.beta is None else f', beta={self.beta}'
        return (f'criterion={self.criterion!r}, normalize={self.normalize}, '
                f'loss_weight={self.loss_weight}{beta}')
