from typing import Dict

import torch
import torch.nn as nn
from mmpretrain.models.selfsup import MAEViT

from .timm_maps import TrainedMaps
from .trained_model import TrainedModel
from .vit_architecture import BACKBONES, NamedArchitecture


class ImageFeatures(nn.Module):
    """A trained model as a program: images in, features out.

    Its outputs have the same names for a model of any kind, of which B images
    give

    - ``features``, (B, C, rows, columns): behind the last block and its norm,
      one vector a patch; or the last map that was trained;
    - ``pooled``, (B, C): their mean, as ``tools/evaluate.py`` takes it; of a
      model that was trained with a norm behind the mean, with it;
    - ``cls_token``, (B, C), where there is one.

    Registers are not among them.

    Args:
        model (TrainedModel): The model.
    """

    def __init__(self, model: TrainedModel) -> None:
        super().__init__()
        self.backbone = model.backbone
        self.returns_maps = isinstance(model, TrainedMaps)
        if self.returns_maps:
            return
        arch = model.arch
        self.grid = tuple(pixels // patch for pixels, patch in zip(
            arch.img_size, arch.patch_size))
        self.is_of_timm = not isinstance(self.backbone, BACKBONES)
        self.norm, self.pooled_norm = nn.Identity(), nn.Identity()
        if not self.is_of_timm:
            self.backbone.out_indices = [self.backbone.num_layers - 1]
            self.backbone.out_type = 'raw'
            self.pooled_norm = getattr(self.backbone, 'ln2', nn.Identity())
        elif isinstance(arch, NamedArchitecture):
            # Trained so, as a TimmViT.
            self.norm = self.backbone.fc_norm
        else:
            self.pooled_norm = self.backbone.fc_norm

    @torch.no_grad()
    def forward(self, images: torch.Tensor) -> Dict[str, torch.Tensor]:
        """Features of normalised images, (B, C, H, W)."""
        if self.returns_maps:
            features = self.backbone(images)[-1]
            return dict(features=features, pooled=features.mean((2, 3)))
        if self.is_of_timm:
            tokens = self.norm(self.backbone.forward_features(images))
            prefix = self.backbone.num_prefix_tokens
        else:
            whole = dict(mask=None) if isinstance(self.backbone,
                                                  MAEViT) else {}
            tokens, = self.backbone(images, **whole)
            prefix = int(self.backbone.cls_token is not None)
        patches = tokens[:, prefix:]
        outputs = dict(
            features=patches.transpose(1, 2).unflatten(2, self.grid),
            pooled=self.pooled_norm(patches.mean(1)))
        if self.backbone.cls_token is not None:
            outputs['cls_token'] = tokens[:, 0]
        return outputs
