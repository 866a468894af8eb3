from typing import Sequence, Tuple, Union

import torch
import torch.nn as nn
from mmengine.model import BaseModule
from mmpretrain.registry import MODELS

from dmae_mm.options import reject_unknown_options


def _mlp(in_dims: int, out_dims: int) -> Tuple[nn.Module, ...]:
    return (nn.Linear(in_dims, out_dims), nn.GELU(),
            nn.Linear(out_dims, out_dims))


# Each builds a projector from the student's to the teacher's width.
PROJECTORS = {
    'linear': nn.Linear,
    'linear_no_bias': lambda s, t: nn.Linear(s, t, bias=False),
    'mlp': lambda s, t: nn.Sequential(*_mlp(s, t)),
    'mlp2': lambda s, t: nn.Sequential(*_mlp(s, t), *_mlp(t, t)),
    'identity': lambda s, t: nn.Identity(),
}


@MODELS.register_module()
@reject_unknown_options
class FeatureProjectionNeck(BaseModule):
    """Project student features to the teacher's width, one projector a pair.

    From `Masked Autoencoders Enable Efficient Knowledge Distillers
    <https://arxiv.org/abs/2208.12256>`_, section 3.2. The projectors keep
    PyTorch's default initialisation whatever ``init_cfg`` the model around
    them has, as in the paper's experiments.

    Args:
        student_dims (int | Sequence[int]): Width of the student, of each pair
            where they differ. A :class:`Distillation` fills it in, as the
            following two.
        teacher_dims (int): Width of the teacher.
        num_pairs (int): Number of aligned pairs.
        projector (str): What each projector is. 'linear'; 'linear_no_bias';
            'mlp' (linear to the teacher's width, GELU, linear); 'mlp2' (two
            such MLPs in a row); 'identity' (needs equal widths). Defaults to
            'linear'.

    Raises:
        ValueError: If ``projector`` does not exist, or is 'identity' while
            the widths differ.
    """

    def __init__(self,
                 student_dims: Union[int, Sequence[int]],
                 teacher_dims: int,
                 num_pairs: int,
                 projector: str = 'linear') -> None:
        super().__init__()
        if projector not in PROJECTORS:
            raise ValueError(
                f'distill_neck: projector={projector!r} does not exist. '
                f'Choose one of {sorted(PROJECTORS)}.')
        widths = [student_dims] * num_pairs if isinstance(
            student_dims, int) else list(student_dims)
        if projector == 'identity' and {*widths} != {teacher_dims}:
            raise ValueError(
                f"distill_neck: projector='identity' needs equal widths, but "
                f'the student is {student_dims} and the teacher '
                f"{teacher_dims} wide. Choose 'linear', 'mlp' or 'mlp2'.")
        self.projectors = nn.ModuleList(
            PROJECTORS[projector](width, teacher_dims) for width in widths)

    def init_weights(self) -> None:
        """Undo what an ``init_cfg`` of the surrounding model did."""
        if self.is_init:
            return
        for module in self.modules():
            if isinstance(module, nn.Linear):
                module.reset_parameters()
        self._is_init = True

    def forward(
            self,
            features: Sequence[torch.Tensor]) -> Tuple[torch.Tensor, ...]:
        """Project the features of each pair.

        Args:
            features (Sequence[torch.Tensor]): One (B, N, C_student)
                tensor a pair.

        Returns:
            tuple[torch.Tensor]: One (B, N, teacher_dims) tensor a pair.
        """
        return tuple(
            projector(feature)
            for projector, feature in zip(self.projectors, features))
