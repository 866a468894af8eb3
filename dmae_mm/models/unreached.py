"""What no loss reaches, where a model predicts no pixels."""
from typing import Sequence, Tuple

import torch.nn as nn
from mmengine.logging import print_log

from .qkv_layers import norm_before_attention
from .student import Student


# What mmpretrain's and timm's call the norms behind the blocks.
_NORMS_BEHIND = ('ln1', 'ln2', 'timm_model.norm', 'timm_model.fc_norm')


def freeze_unreached(model: nn.Module, student: Student) -> None:
    """Freeze the little behind the last aligned outputs, refuse the rest.

    Without a loss of pixels, gradients begin at the aligned outputs. DDP
    would wait for ever for those of what lies behind. That much belongs to
    the stock networks, which compute it all the same: a norm, of a block
    whose queries, keys and values are aligned also its other layers. Blocks
    behind would be computed for nothing, and are refused.

    Args:
        model (nn.Module): A DMAE without head.
        student (Student): Its student.

    Raises:
        ValueError: If blocks of the backbone or of the decoder are behind all
            that is aligned.
    """
    aligned = [(each.tap, module) for each in model.distillations
               for module in each.student_modules]
    if not aligned:  # it is not trained, but evaluated
        return
    if model.neck is not None:
        aligned = [pair for pair in aligned if pair[0] == 'decoder']
        if not aligned:
            raise ValueError(
                'neck: without a head, no loss reaches this decoder. Set '
                'neck=None, or give a head, or '
                "distill_loss=dict(type='MaskedFeatureLoss').")
        _check_last(aligned, student, 'neck', 'decoder_depth')
        unreached = {
            'neck.decoder_norm': model.neck.decoder_norm,
            'neck.decoder_pred': model.neck.decoder_pred
        }
    else:
        _check_last(aligned, student, 'backbone', 'the num_layers of its arch')
        unreached = {
            f'backbone.{name}': module
            for name, module in model.backbone.named_modules()
            if name in _NORMS_BEHIND and [*module.parameters()]
        }
        last = student.modules['block'][-1]
        if ('block', last) not in aligned:
            unreached['its last block behind the qkv layer'] = _behind_qkv(
                last)
    for module in unreached.values():
        module.requires_grad_(False)
    if unreached:
        print_log(
            f'No loss reaches {" and ".join(unreached)}: not trained.',
            logger='current')


def _check_last(aligned: Sequence[Tuple[str, nn.Module]], student: Student,
                part: str, depth: str) -> None:
    """Refuse blocks behind all that is aligned."""
    last = max(
        list(student.modules[tap]).index(module) for tap, module in aligned)
    number = len(student.modules[aligned[0][0]])
    if last + 1 < number:
        raise ValueError(
            f'aligned_layers: the last aligned block of the {part} is {last} '
            f'of {number} blocks, and without a head no loss reaches those '
            f'behind it. Align the last one, {number - 1}, or set {depth} to '
            f'{last + 1}, or give neck and head.')


def _behind_qkv(block: nn.Module) -> nn.ModuleList:
    """All of a block but the norm in front of its qkv layer, and that."""
    norm = getattr(block, norm_before_attention(block))
    return nn.ModuleList(
        child for child in (*block.children(), *block.attn.children())
        if child not in (norm, block.attn, block.attn.qkv))
