import torch
import torch.nn.functional as F
from mmpretrain.registry import MODELS

from dmae_mm.options import is_finite_number, reject_unknown_options

from .feature_loss import (FeatureLoss, at_least_float32, check_same_tokens,
                           without_autocast)
from .relation_divergence import relation_divergence


@MODELS.register_module()
@reject_unknown_options
class TokenRelationLoss(FeatureLoss):
    """Which patches of an image are alike shall be as the teacher has it.

    With :math:`\\hat{s}` and :math:`\\hat{t}` the patch tokens of an image,
    each L2-normalised along its channels, as rows of a matrix,

    .. math:: L = w \\cdot \\mathrm{mean} \\, \\mathrm{KL}(
              \\mathrm{softmax}(\\hat{t} \\hat{t}^T / \\tau) \\,\\|\\,
              \\mathrm{softmax}(\\hat{s} \\hat{s}^T / \\tau))

    over images and rows. The widths of both sides may differ: the features
    are compared as they are, without projectors. At least in float32, under
    autocast too.

    Args:
        temperature (float): :math:`\\tau`, above 0. Defaults to 0.07.
        loss_weight (float): The factor :math:`w`, at least 0. Defaults to
            1.0.

    Raises:
        ValueError: If an option has an illegal value.
    """

    projects = False
    tokens = 'patches'

    def __init__(self,
                 temperature: float = 0.07,
                 loss_weight: float = 1.0) -> None:
        super().__init__(loss_weight)
        if not is_finite_number(temperature) or temperature <= 0:
            raise ValueError(f'distill_loss: temperature={temperature!r} is '
                             'not a finite number above 0.')
        self.temperature = temperature

    def per_image(self, student: torch.Tensor,
                  teacher: torch.Tensor) -> torch.Tensor:
        """The loss of each image.

        Args:
            student (torch.Tensor): Student's patch tokens, (B, N, C_student).
            teacher (torch.Tensor): Teacher's, (B, N, C_teacher), no gradient.

        Returns:
            torch.Tensor: (B,), at least float32.

        Raises:
            ValueError: If the numbers of images or tokens differ.
        """
        check_same_tokens(student, teacher)
        with without_autocast(student):
            relations = (
                tokens @ tokens.transpose(1, 2) / self.temperature
                for tokens in (F.normalize(side, dim=-1)
                               for side in at_least_float32(student, teacher)))
            return self.loss_weight * relation_divergence(*relations)

    def extra_repr(self) -> str:
        return (f'temperature={self.temperature}, '
                f'loss_weight={self.loss_weight}')
