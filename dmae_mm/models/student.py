from dataclasses import dataclass, field
from typing import Dict, Optional, Sequence, Union

import torch.nn as nn
from mmpretrain.models.necks import MAEPretrainDecoder

from .mmpretrain_vits import blocks, prefix_tokens
from .qkv_layers import qkv_layers
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
            by tap, one for each block where they differ; of 'qkv' a third,
            that of the block.
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
               data_preprocessor: nn.Module,
               decoder: Optional[nn.Module] = None) -> 'Student':
        """A vision transformer of mmpretrain.

        Args:
            backbone (nn.Module): A plain ViT or HiViT, masked or not.
            data_preprocessor (nn.Module): That of the model, which normalises
                its images.
            decoder (nn.Module, optional): Its decoder. The tap 'decoder' is
                that of an ``MAEPretrainDecoder``, whose blocks see all
                patches. Defaults to None.

        Returns:
            Student: What was found.
        """
        images = StudentInput.of_vit(backbone, data_preprocessor)
        rows, columns = images.patch_grid
        layers = blocks(backbone)
        taps = dict(block=layers, qkv=qkv_layers(layers))
        widths = dict.fromkeys(taps, backbone.embed_dims)
        if type(decoder) is MAEPretrainDecoder:
            taps['decoder'] = decoder.decoder_blocks
            widths['decoder'] = decoder.decoder_embed.out_features
        ratio = getattr(backbone, 'mask_ratio', None)
        num_prefix, has_cls = prefix_tokens(backbone)
        return cls(
            images,
            {tap: found for tap, found in taps.items() if found},
            embed_dims=widths,
            num_prefix_tokens=num_prefix,
            has_cls_token=has_cls,
            num_patches=rows * columns,
            num_visible=ratio if ratio is None else num_seen(
                rows * columns, ratio))


def num_seen(num_patches: int, mask_ratio: float) -> int:
    """How many patches a mask leaves visible, by MAE's own rule."""
    return int(num_patches * (1 - mask_ratio))
