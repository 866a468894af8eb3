"""What models compute, under the same names for mmpretrain and timm."""
from typing import Dict

import torch
import torch.nn as nn
from mmpretrain.models.selfsup import MAEViT


def mmpretrain_outputs(backbone: nn.Module,
                       images: torch.Tensor) -> Dict[str, torch.Tensor]:
    """Features of a backbone of mmpretrain.

    Args:
        backbone (nn.Module): One of ``BACKBONES``.
        images (torch.Tensor): (B, C, H, W).

    Returns:
        dict[str, torch.Tensor]: ``tokens`` after the last block and the
        final norm, if there is one, (B, P + L, C); of these the ``patches``,
        (B, L, C); and, if there is a norm for it, their ``pooled`` average,
        (B, C).
    """
    backbone.eval()
    whole = dict(mask=None) if isinstance(backbone, MAEViT) else {}
    backbone.out_indices = [backbone.num_layers - 1]
    backbone.out_type = 'raw'
    tokens, = backbone(images, **whole)
    outputs = dict(
        tokens=tokens, patches=tokens[:, int(backbone.cls_token is not None):])
    if hasattr(backbone, 'ln2'):
        backbone.out_type = 'avg_featmap'
        outputs['pooled'], = backbone(images, **whole)
    return outputs


def timm_outputs(model: nn.Module,
                 images: torch.Tensor) -> Dict[str, torch.Tensor]:
    """Features of timm's VisionTransformer, as :func:`mmpretrain_outputs`.

    Args:
        model (nn.Module): Built by ``timm.create_model``.
        images (torch.Tensor): (B, C, H, W).

    Returns:
        dict[str, torch.Tensor]: Also ``logits``, (B, num_classes).
    """
    model.eval()
    tokens = model.forward_features(images)
    return dict(
        tokens=tokens,
        patches=tokens[:, model.num_prefix_tokens:],
        pooled=model.forward_head(tokens, pre_logits=True),
        logits=model(images))
