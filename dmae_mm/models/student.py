from dataclasses import dataclass, field
from typing import Dict, Optional, Sequence, Union

import torch.nn as nn

from .mmpretrain_vits import blocks, prefix_tokens
from .student_input import StudentInput


@dataclass(frozen=True)
class Student:
    """What a distillation needs to know of the network that learns.

    Attributes:
        images (StudentInput): Its images.
        modules (dict[str, Sequence[nn.Module]]): What can be aligned: for
            each tap ('block', 'qkv', 'decoder') the modules, one for each
            block, whose outputs a loss of that tap compares.
        embed_dims (dict[str, int | Sequence[int]]): Width of these outputs,
            by tap; one for each block where they differ.
        num_prefix_tokens (int): P, tokens in front of those of the patches.
            Defaults to 0.
        has_cls_token (bool): Whether the first of these is CLS. Defaults to
            False.
        num_patches (int, optional): L. None if there are none. Where a mask
            hides larger units (``images.units``), L counts these.
        num_visible (int, optional): K, of the masked ones. None: all.
    """
    images: StudentInput
    modules: Dict[str, Sequence[nn.Module]] = field(default_factory=dict)
    embed_dims: Dict[str, Union[int, Sequence[int]]] = field(
        default_factory=dict)
    num_prefix_tokens: int = 0
    has_cls_token: bool = False
    num_patches: Optional[int] = None
    num_visible: Optional[int] = None

    @classmethod
    def of_vit(cls, backbone: nn.Module,
               data_preprocessor: nn.Module) -> 'Student':
        """A vision transformer of mmpretrain.

        Args:
            backbone (nn.Module): A plain ViT or HiViT, masked or not.
            data_preprocessor (nn.Module): That of the model, which normalises
                its images.

        Returns:
            Student: What was found.
        """
        images = StudentInput.of_vit(backbone, data_preprocessor)
        rows, columns = images.patch_grid
        layers = blocks(backbone)
        taps = dict(block=layers)
        if all(hasattr(getattr(layer, 'attn', None), 'qkv')
               for layer in layers):
            taps['qkv'] = [layer.attn.qkv for layer in layers]
        ratio = getattr(backbone, 'mask_ratio', None)
        num_prefix, has_cls_token = prefix_tokens(backbone)
        return cls(
            images,
            taps,
            embed_dims={tap: backbone.embed_dims for tap in taps},
            num_prefix_tokens=num_prefix,
            has_cls_token=has_cls_token,
            num_patches=rows * columns,
            num_visible=ratio if ratio is None else num_seen(
                rows * columns, ratio))


def num_seen(num_patches: int, mask_ratio: float) -> int:
    """How many patches a mask leaves visible, by MAE's own rule."""
    return int(num_patches * (1 - mask_ratio))
