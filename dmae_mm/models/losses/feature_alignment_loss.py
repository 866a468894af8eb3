from typing import Dict, Optional, Union

import torch
import torch.nn.functional as F
from mmpretrain.registry import MODELS

from dmae_mm.options import is_finite_number, reject_unknown_options

from .feature_loss import FeatureLoss, at_least_float32


def _cosine(student: torch.Tensor, teacher: torch.Tensor,
            reduction: str) -> torch.Tensor:
    """1 - cos of tokens of length 1, (B, N, 1), or its mean."""
    distance = 1 - (student * teacher).sum(dim=-1, keepdim=True)
    return distance.mean() if reduction == 'mean' else distance


CRITERIA = {
    'L1': F.l1_loss,
    'L2': F.mse_loss,
    'smooth_L1': F.smooth_l1_loss,
    'cosine': _cosine,
}


@MODELS.register_module()
@reject_unknown_options
class FeatureAlignmentLoss(FeatureLoss):
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

    Two recipes of other papers:

    - ``criterion=dict(cosine=0.5, smooth_L1=0.5), normalize=False,
      cls_weight=0.5``: `UNIC <https://arxiv.org/abs/2408.05088>`_;
    - ``criterion='smooth_L1', normalize='layer', beta=2.0``: that of `Feature
      Distillation <https://arxiv.org/abs/2205.14141>`_ and G2SD.

    Args:
        criterion (str | dict[str, float]): 'L1', 'L2', 'smooth_L1' or
            'cosine'; or the weights, above 0, of several of them in a sum.
            Defaults to 'L1'.
        normalize (bool | str): True: L2-normalise every token along its
            channels first. False: compare the features as they are. 'layer':
            LayerNorm without affine (eps 1e-6) on the teacher's tokens and
            nothing on the student's. 'cosine' always L2-normalises, after
            that. Defaults to True.
        loss_weight (float): The factor :math:`w`, at least 0.
            Defaults to 1.0.
        beta (float, optional): Where 'smooth_L1' turns from squared to
            absolute differences, above 0. Elements of normalised tokens are
            about 1 / sqrt(C), so with PyTorch's 1 it would just be 'L2' / 2.
            Defaults to None: 1 / sqrt(C) with ``normalize=True``, else 1.
            (G2SD has 2 on layer-normalised features, whose elements are
            about 1; that is 2 / sqrt(C) on L2-normalised ones.)
        cls_weight (float, optional): Share of CLS in an image's loss, from 0
            to 1; the mean of its patches has the rest. Both sides must have
            CLS. Defaults to None: the mean of all tokens alike.

    Raises:
        ValueError: If an option has an illegal value, or ``normalize=False``
            or ``beta`` is given to a criterion that would not read it.
    """

    def __init__(self,
                 criterion: Union[str, Dict[str, float]] = 'L1',
                 normalize: Union[bool, str] = True,
                 loss_weight: float = 1.0,
                 beta: Optional[float] = None,
                 cls_weight: Optional[float] = None) -> None:
        super().__init__(loss_weight)
        weights = _weights(criterion)
        if not isinstance(normalize, bool) and normalize != 'layer':
            raise ValueError(f'distill_loss: normalize={normalize!r} does not '
                             "exist. Choose True, False or 'layer'.")
        if weights.keys() == {'cosine'} and normalize is False:
            raise ValueError(
                f'distill_loss: normalize=False with criterion={criterion!r} '
                'would change nothing: the cosine of two tokens does not '
                'depend on their lengths. Remove it, or choose another '
                'criterion.')
        if beta is not None and 'smooth_L1' not in weights:
            raise ValueError(
                f'distill_loss: beta={beta!r} belongs to '
                f"criterion='smooth_L1'; criterion={criterion!r} does not "
                'read it. Remove one of them.')
        if beta is not None and (not is_finite_number(beta) or beta <= 0):
            raise ValueError(f'distill_loss: beta={beta!r} is not a finite '
                             'number above 0. For 0, which is the absolute '
                             "difference, choose criterion='L1'.")
        if cls_weight is not None and (not is_finite_number(cls_weight)
                                       or not 0 <= cls_weight <= 1):
            raise ValueError(
                f'distill_loss: cls_weight={cls_weight!r} is not a number '
                'from 0 to 1. Leave it out to average all tokens alike.')
        self.criterion = criterion
        self.weights = weights
        self.normalize = normalize
        self.beta = beta
        self.cls_weight = cls_weight

    def forward(self,
                student: torch.Tensor,
                teacher: torch.Tensor,
                has_cls: bool = False) -> torch.Tensor:
        """Compare one pair of features.

        Args:
            student (torch.Tensor): Projected student tokens, (B, N, C).
            teacher (torch.Tensor): Teacher tokens, (B, N, C), no gradient.
            has_cls (bool): Whether the first token is CLS. Only read with
                ``cls_weight``. Defaults to False.

        Returns:
            torch.Tensor: The weighted loss, a scalar of at least float32.

        Raises:
            ValueError: If the shapes differ (they would broadcast), or CLS is
                to be weighed and is not there.
        """
        if self.cls_weight is not None:
            return self.per_image(student, teacher, has_cls).mean()
        return self.loss_weight * self._distance(student, teacher, 'mean')

    def per_image(self,
                  student: torch.Tensor,
                  teacher: torch.Tensor,
                  has_cls: bool = False) -> torch.Tensor:
        """The same of each image, (B,); the mean of that is the loss."""
        tokens = self._distance(student, teacher, 'none')  # (B, N)
        if self.cls_weight is None:
            return self.loss_weight * tokens.mean(dim=1)
        if not has_cls:
            raise ValueError(
                f'distill_loss: cls_weight={self.cls_weight} needs CLS, which '
                'the student, the teacher or both do not have. Remove it.')
        return self.loss_weight * (
            self.cls_weight * tokens[:, 0] +
            (1 - self.cls_weight) * tokens[:, 1:].mean(dim=1))

    def _distance(self, student: torch.Tensor, teacher: torch.Tensor,
                  reduction: str) -> torch.Tensor:
        """Sum of the criteria: of each token, (B, N), or its 'mean'."""
        if student.shape != teacher.shape:
            raise ValueError(
                f'The projected student features have shape '
                f'{tuple(student.shape)}, the teacher features '
                f'{tuple(teacher.shape)}; they must be equal.')
        width = student.shape[-1]
        pair = at_least_float32(student, teacher)
        if self.normalize == 'layer':
            pair = pair[0], F.layer_norm(pair[1], (width, ), eps=1e-6)
        if self.normalize is True or 'cosine' in self.weights:
            unit_pair = tuple(F.normalize(tokens, dim=-1) for tokens in pair)
        if self.normalize is True:
            pair = unit_pair
        total = 0
        for criterion, weight in self.weights.items():
            options = {}
            if criterion == 'smooth_L1':
                options['beta'] = self.beta or (
                    width**-0.5 if self.normalize is True else 1.0)
            distance = CRITERIA[criterion](
                *(unit_pair if criterion == 'cosine' else pair),
                reduction=reduction,
                **options)
            if reduction == 'none':
                distance = distance.mean(dim=-1)
            total = total + weight * distance
        return total

    def extra_repr(self) -> str:
        options = [
            f'{name}={getattr(self, name)!r}'
            for name in ('criterion', 'normalize', 'loss_weight', 'beta',
                         'cls_weight') if getattr(self, name) is not None
        ]
        return ', '.join(options)


def _weights(criterion: Union[str, Dict[str, float]]) -> Dict[str, float]:
    """The weight of each criterion; raises if there is no such criterion."""
    weights = {criterion: 1.0} if isinstance(criterion, str) else criterion
    if not isinstance(weights, dict) or not weights or not (
            weights.keys() <= CRITERIA.keys()):
        raise ValueError(
            f'distill_loss: criterion={criterion!r} does not exist. Choose '
            f'one of {list(CRITERIA)}, or a dict of the weights of several.')
    for name, weight in weights.items():
        if not is_finite_number(weight) or weight <= 0:
            raise ValueError(
                f'distill_loss: criterion={criterion!r} gives {name!r} the '
                f'weight {weight!r}, which is not a finite number above 0. '
                'Leave out a criterion that is not wanted.')
    return dict(weights)
