import inspect
from typing import Tuple

import torch
import torch.nn as nn

from .spark_student import SparKStudent, all_visible


def outputs_of_whole_images(backbone: nn.Module, images: torch.Tensor
                            ) -> Tuple[torch.Tensor, ...]:
    """Call a backbone without masking, also one that masks by itself.

    Args:
        backbone (nn.Module): Any backbone of mmpretrain, masked or not.
        images (torch.Tensor): Normalised images, (B, C, H, W); square for
            the sparse ones of SparK.

    Returns:
        tuple[torch.Tensor]: The backbone's outputs, also of one that returns
        a single one.
    """
    if isinstance(backbone, SparKStudent.backbones):
        with all_visible(images):
            return backbone(images)
    # Other backbones of masked image modelling mask, unless told not to.
    masked = 'mask' in inspect.signature(backbone.forward).parameters
    outputs = backbone(images, **(dict(mask=None) if masked else {}))
    return tuple(outputs) if isinstance(outputs, (list, tuple)) else (
        outputs, )
