"""For ``timm.create_model``."""
from functools import partial
from typing import Any, Dict, List, Optional, Tuple

import timm
import torch
import torch.nn as nn
from timm.models.vision_transformer import VisionTransformer

from ..names import backbone_to_timm
from ..tensor_file import Tensors
from .export_format import (SOME_LAYER_SCALE, ExportFormat, int_if_square,
                            unlike_defaults)
from .trained_model import TrainedModel, timm_outputs
from .vit_architecture import NamedArchitecture, ViTArchitecture, refuse

# The names that timm has for the usual shapes. Each is 224 px and 4 times as
# wide in its MLPs.
_MODELS = {
    name: dict(patch_size=patch, embed_dim=width, depth=depth, num_heads=heads)
    for name, patch, width, depth, heads in (
        ('vit_tiny_patch16_224', 16, 192, 12, 3),
        ('vit_small_patch16_224', 16, 384, 12, 6),
        ('vit_base_patch16_224', 16, 768, 12, 12),
        ('vit_large_patch16_224', 16, 1024, 24, 16),
        ('vit_huge_patch14_224', 14, 1280, 32, 16))
}


class TimmFormat(ExportFormat):
    """A file for ``timm.create_model(..., pretrained=True)``.

    The file is named in ``pretrained_cfg_overlay``, not as
    ``checkpoint_path``: there the model learns mean, std and size, and timm
    resamples the positions for another ``img_size``, from the size that is
    written there.

    Args:
        model (TrainedModel): The model.
        num_classes (int | None): Classes of the classifier, 0 for none. None
            takes those of the trained classifier, or else 1000. Where there
            is no trained classifier, it is filled with zeros, because timm
            loads strictly.
    """
    loaded_by = f'timm {timm.__version__}'
    takes_names = True

    def __init__(self,
                 model: TrainedModel,
                 num_classes: Optional[int] = None) -> None:
        super().__init__(model)
        head = model.classifier_tensors
        if head:
            trained = len(head['weight'])
            if num_classes not in (None, trained):
                raise ValueError(
                    f'num_classes={num_classes}, but the trained classifier '
                    f'has {trained} classes. Give no number to keep it, or '
                    '0 to leave the classifier out.')
            num_classes = trained
            self.notes.append(f'head: trained, {trained} classes')
        elif num_classes != 0:
            num_classes = num_classes or 1000
            head = dict(
                weight=torch.zeros(num_classes, model.arch.embed_dims),
                bias=torch.zeros(num_classes))
            self.notes.append(
                f'head: zeros, not trained, {num_classes} classes')
        if isinstance(model.arch, NamedArchitecture):
            self.model_name = model.arch.model_name
            self.kwargs = dict(model.arch.kwargs, num_classes=num_classes)
            self.tensors = dict(model.tensors)
        else:
            self.model_name, self.kwargs = _name_and_kwargs(
                model.arch, num_classes)
            self.tensors = backbone_to_timm(model.tensors)
        # DeiT has one more behind its distillation token.
        for classifier in ('head', 'head_dist'):
            if classifier == 'head' or 'dist_token' in self.tensors:
                self.tensors.update({
                    f'{classifier}.{name}': tensor.clone()
                    for name, tensor in head.items()
                })
        self.source = pretrained_cfg(model, num_classes, self.notes)

    def usage(self, path: str) -> str:
        arguments = [repr(self.model_name)]
        for key, value in self.kwargs.items():
            code = repr(value)
            if key == 'norm_layer':
                code = ('functools.partial(torch.nn.LayerNorm, '
                        f'eps={value.keywords["eps"]})')
            arguments.append(f'{key}={code}')
        arguments.append('pretrained=True')
        overlay = dict(file=path, **self.source)
        arguments.append(f'pretrained_cfg_overlay={overlay!r}')
        return f'timm.create_model({", ".join(arguments)})'

    def outputs(self, path: str, images: torch.Tensor) -> Tensors:
        return timm_outputs(self._load(path), images)

    def check_preprocessing(self, path: str) -> None:
        found = timm.data.resolve_model_data_config(self._load(path))
        for name in ('input_size', 'interpolation', 'crop_pct', 'crop_mode'):
            if found[name] != self.source[name]:
                raise ValueError(f'timm takes {name}={found[name]} instead of '
                                 f'{self.source[name]}')
        if self.origin.mean is not None:
            self._compare_preprocessing(
                *([255 * value for value in found[name]]
                  for name in ('mean', 'std')), 1e-4)

    def _load(self, path: str) -> nn.Module:
        return timm.create_model(
            self.model_name,
            pretrained=True,
            pretrained_cfg_overlay=dict(file=path, **self.source),
            **self.kwargs)


def pretrained_cfg(model: TrainedModel, num_classes: int,
                   notes: List[str]) -> Dict[str, Any]:
    """What timm has to know of a file, for ``pretrained_cfg_overlay``.

    Evaluated are whole images, resized to the size of the training as there.
    Its random crops have aspects from 3:4 to 4:3, up to which this squeezes a
    photograph.

    Args:
        model (TrainedModel): The model.
        num_classes (int): Of its classifier.
        notes (list[str]): What a user must know is added.
    """
    arch, origin = model.arch, model.origin
    mean, std = origin.mean, origin.std
    if mean is None:
        mean, std = (0., ) * arch.in_channels, (1., ) * arch.in_channels
        notes.append('so timm is told that pixel values from 0 to 255 stay '
                     'as they are')
    elif origin.to_rgb is False and arch.in_channels == 3:
        notes.append(
            'data_preprocessor does not reverse the order of the channels, '
            'which OpenMMLab loads as BGR, and timm gives RGB: reverse the '
            'images (images.flip(1)), with mean and std, unless your pipeline '
            'loads RGB')
    # timm's are for values from 0 to 1.
    return dict(
        input_size=(arch.in_channels, *arch.img_size),
        mean=tuple(round(value / 255, 9) for value in mean),
        std=tuple(round(value / 255, 9) for value in std),
        num_classes=num_classes,
        interpolation=model.interpolation,
        crop_pct=1.,
        crop_mode='squash')


def _name_and_kwargs(arch: ViTArchitecture,
                     num_classes: int) -> Tuple[str, Dict[str, Any]]:
    """The name that fits best, and what differs from its own settings."""
    if arch.final_norm and arch.pooled_norm:
        refuse("timm's VisionTransformer cannot express",
               ['final_norm=True together with out_type="avg_featmap"'])
    takes_cls = arch.cls_token and not (arch.pooled_norm or arch.averages)
    shape = dict(
        patch_size=int_if_square(arch.patch_size),
        embed_dim=arch.embed_dims,
        depth=arch.num_layers,
        num_heads=arch.num_heads)
    kwargs = dict(
        shape,
        img_size=int_if_square(arch.img_size),
        in_chans=arch.in_channels,
        num_classes=num_classes,
        mlp_ratio=_mlp_ratio(arch),
        qkv_bias=arch.qkv_bias,
        init_values=SOME_LAYER_SCALE if arch.layer_scale else None,
        class_token=arch.cls_token,
        no_embed_class=arch.deit3,
        pre_norm=arch.pre_norm,
        final_norm=arch.final_norm or arch.pooled_norm,
        # Without CLS, timm has to pool; its norm would then move behind the
        # pooling.
        global_pool='token' if takes_cls else 'avg',
        fc_norm=None if takes_cls or arch.pooled_norm else False)
    if arch.norm_eps != 1e-6:
        kwargs['norm_layer'] = partial(nn.LayerNorm, eps=arch.norm_eps)
    name = next((name for name, known in _MODELS.items() if known == shape),
                'vit_base_patch16_224')
    return name, unlike_defaults(kwargs, VisionTransformer, **_MODELS[name])


def _mlp_ratio(arch: ViTArchitecture) -> float:
    ratio = arch.feedforward_channels / arch.embed_dims
    # timm rounds down what it multiplies.
    if int(arch.embed_dims * ratio) != arch.feedforward_channels:
        ratio = (arch.feedforward_channels + 0.5) / arch.embed_dims
    return ratio
