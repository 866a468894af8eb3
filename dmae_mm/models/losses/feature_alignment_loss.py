import math

import torch
import torch.nn as nn
import torch.nn.functional as F
from mmpretrain.registry import MODELS

from dmae_mm.options import reject_unknown_options

CRITERIA = {'L1': F.l1_loss, 'L2': F.mse_loss}


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
    Half-precision features are compared in float32.

    Args:
        criterion (str): 'L1' or 'L2'. Defaults to 'L1'.
        normalize (bool): L2-normalise every token along its channels first.
            Defaults to True.
        loss_weight (float): The factor :math:`w`, at least 0.
            Defaults to 1.0.

    Raises:
        ValueError: If ``criterion`` or ``loss_weight`` is not legal.
    """

    def __init__(self,
                 criterion: str = 'L1',
                 normalize: bool = True,
                 loss_weight: float = 1.0) -> None:
        super().__init__()
        if criterion not in CRITERIA:
            raise ValueError(
                f'distill_loss: criterion={criterion!r} does not exist. '
                f'Choose one of {sorted(CRITERIA)}.')
        if not isinstance(normalize, bool):
            raise ValueError(f'distill_loss: normalize={normalize!r} is not '
                             'a bool. Choose True or False.')
        if (isinstance(loss_weight, bool)
                or not isinstance(loss_weight, (int, float))
                or not math.isfinite(loss_weight) or loss_weight < 0):
            raise ValueError(f'distill_loss: loss_weight={loss_weight!r} is '
                             'not a finite number of at least 0.')
        self.criterion = criterion
        self.normalize = normalize
        self.loss_weight = loss_weight

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
        return self.loss_weight * CRITERIA[self.criterion](student, teacher)

    def extra_repr(self) -> str:
        return (f'criterion={self.criterion!r}, normalize={self.normalize}, '
                f'loss_weight={self.loss_weight}')
