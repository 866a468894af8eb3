import torch
import torch.nn as nn
import torch.nn.functional as F
from mmpretrain.registry import MODELS

from dmae_mm.options import is_finite_number, reject_unknown_options

MODES = ('soft', 'hard')


@MODELS.register_module()
@reject_unknown_options
class LogitDistillationLoss(nn.Module):
    """Distance between a student's and a teacher's predicted classes.

    With :math:`s` the student's and :math:`t` the teacher's logits, the mean
    over the batch of

    - 'soft', `Distilling the Knowledge in a Neural Network
      <https://arxiv.org/abs/1503.02531>`_ (Hinton et al. 2015), section 2:

      .. math:: L = w T^2 \\, \\mathrm{KL}(\\mathrm{softmax}(t / T) \\,\\|\\,
                \\mathrm{softmax}(s / T))

      whose gradients keep their size when :math:`T` changes;
    - 'hard', `Training data-efficient image transformers
      <https://arxiv.org/abs/2012.12877>`_ (DeiT, Touvron et al. 2021),
      equation 3: :math:`w` times the cross-entropy with the class to which
      the teacher gives the highest logit.

    Half-precision logits are compared in float32.

    Args:
        mode (str): 'soft' or 'hard'. Defaults to 'soft'.
        temperature (float): :math:`T`, above 0, for 'soft' alone. Defaults to
            1.0: the teacher's probabilities as they are, as usual for the
            many classes of ImageNet. Small tasks take up to 20.
        loss_weight (float): The factor :math:`w`, at least 0.
            Defaults to 1.0.

    Raises:
        ValueError: If an option has an illegal value.
    """

    def __init__(self,
                 mode: str = 'soft',
                 temperature: float = 1.0,
                 loss_weight: float = 1.0) -> None:
        super().__init__()
        if mode not in MODES:
            raise ValueError(f'logit_loss: mode={mode!r} does not exist. '
                             f'Choose one of {list(MODES)}.')
        if not is_finite_number(temperature) or temperature <= 0:
            raise ValueError(f'logit_loss: temperature={temperature!r} is '
                             'not a finite number above 0.')
        if mode == 'hard' and temperature != 1:
            raise ValueError(
                f"logit_loss: temperature={temperature!r} with mode='hard', "
                "which has none. Remove it, or choose mode='soft'.")
        if not is_finite_number(loss_weight) or loss_weight < 0:
            raise ValueError(f'logit_loss: loss_weight={loss_weight!r} is '
                             'not a finite number of at least 0.')
        self.mode = mode
        self.temperature = temperature
        self.loss_weight = loss_weight

    def forward(self, student: torch.Tensor,
                teacher: torch.Tensor) -> torch.Tensor:
        """Compare the logits of a batch.

        Args:
            student (torch.Tensor): The student's logits, (B, C).
            teacher (torch.Tensor): The teacher's logits, (B, C), no gradient.

        Returns:
            torch.Tensor: The weighted loss, a scalar of at least float32.

        Raises:
            ValueError: If these are not two matrices of equal shape.
        """
        if student.shape != teacher.shape or student.dim() != 2:
            raise ValueError(
                f"The student's logits have shape {tuple(student.shape)}, the "
                f"teacher's {tuple(teacher.shape)}; both must be (images, "
                'classes).')
        student = student.to(torch.promote_types(student.dtype, torch.float32))
        if self.mode == 'hard':
            loss = F.cross_entropy(student, teacher.argmax(dim=1))
        else:
            loss = self.temperature**2 * F.kl_div(
                F.log_softmax(student / self.temperature, dim=1),
                F.log_softmax(
                    teacher.to(student.dtype) / self.temperature, dim=1),
                reduction='batchmean',
                log_target=True)
        return self.loss_weight * loss

    def extra_repr(self) -> str:
        return (f'mode={self.mode!r}, temperature={self.temperature}, '
                f'loss_weight={self.loss_weight}')
