"""What is exported: a model of mmpretrain or timm with a checkpoint in it."""
from dataclasses import dataclass, field, replace
from typing import Any, Dict, List, Optional, Tuple, Union

import timm
import torch
import torch.nn as nn
from mmpretrain.models import LinearClsHead, VisionTransformerClsHead
from mmpretrain.models.selfsup import MAEViT

from dmae_mm.host import build, read_model_config
from dmae_mm.messages import one_line

from ..misfits import load_exactly
from ..names import (backbone_from_timm, backbone_state_dict, layout_of,
                     under_prefix)
from ..origin import (Origin, interpolation_of_config, normalisation_of,
                      origin_of, preprocessing_of_config)
from ..positions import PositionGrids, other_meaning
from ..tensor_file import TensorFile, Tensors
from .vit_architecture import (BACKBONES, NamedArchitecture, ViTArchitecture,
                               refuse)

Size = Tuple[int, int]  # height and width


@dataclass
class TrainedModel:
    """A model that is exported."""

    file: TensorFile  # its checkpoint
    backbone: nn.Module  # of mmpretrain or timm, with the file's weights
    # What the backbone computes.
    arch: Union[ViTArchitecture, NamedArchitecture]
    # The backbone's weights under mmpretrain's names, without prefix; of a
    # NamedArchitecture under timm's.
    tensors: Tensors
    # The images that it was trained on.
    origin: Origin
    # The trained head, if it is wanted and in the file: weight and bias.
    classifier: Optional[nn.Module] = None
    classifier_tensors: Tensors = field(default_factory=dict)
    # What else is in the file, but for what it says about itself.
    left_out: List[str] = field(default_factory=list)
    interpolation: str = 'bicubic'  # with which images were resized

    @torch.no_grad()
    def outputs(self, images: torch.Tensor) -> Tensors:
        """What the model computes of images, (B, C, H, W).

        Returns:
            dict[str, torch.Tensor]: As of :func:`mmpretrain_outputs`; with a
            classifier also ``logits``, (B, number of classes).
        """
        outputs = (
            mmpretrain_outputs if isinstance(self.backbone, BACKBONES) else
            timm_outputs)(self.backbone, images)
        if self.classifier is not None:
            features = outputs.get('pooled', outputs['tokens'][:, 0])
            if self.arch.averages:
                features = outputs['patches'].mean(dim=1)
            outputs['logits'] = self.classifier((features, ))
        return outputs


def trained_in_mmpretrain(path: str,
                          file: TensorFile,
                          cfg_options: dict,
                          with_classifier: bool,
                          img_size: Optional[Size] = None) -> TrainedModel:
    """Build the backbone of a config and fill it, strictly.

    Args:
        path (str): Config of a pre-training method or classifier, of
            mmpretrain or of this package.
        file (TensorFile): Its checkpoint, whole or the backbone alone.
        cfg_options (dict): Changes to the config.
        with_classifier (bool): Whether a trained classifier is wanted.
        img_size (tuple[int, int], optional): Height and width for which the
            positions are resampled.

    Raises:
        ValueError: If the config cannot be built, or if checkpoint and
            config do not fit exactly.
    """
    whole = read_model_config(path, cfg_options)
    cfg = whole.model
    if layout_of(file.tensors) not in ('mmpretrain', 'mmpretrain backbone'):
        raise ValueError(
            f"{file.source} does not have mmpretrain's names, which the "
            f'config {path} expects, but {next(iter(file.tensors))!r}, ... '
            "For a file of timm, give the model's name in timm instead of a "
            'config; one of MAE is converted by mae_to_mmpretrain.py.')
    backbone = build(
        {name: value for name, value in cfg['backbone'].items()
         if name not in ('pretrained', 'checkpoint_path')},  # TIMMBackbone's
        f'model.backbone of {path}')
    is_of_timm = hasattr(backbone, 'timm_model')
    out_type = getattr(backbone, 'out_type', None)
    if not is_of_timm:
        arch = ViTArchitecture.of_mmpretrain(backbone)
    try:
        tensors, layout = backbone_state_dict(file.tensors)
    except ValueError as error:
        raise ValueError(f'{file.source}: {error}') from None
    load_exactly(backbone, tensors,
                 f'{file.source} as model.backbone of {path} does not fit')
    refuse(f'{file.source} as model.backbone of {path} is misunderstood:',
           other_meaning(backbone, tensors,
                         origin_of(file.meta, file.tensors)),
           'Give the config that it was trained with; --img-size '
           '(img_size) then resamples its positions.')
    if is_of_timm:
        backbone, arch, tensors = _of_timm(cfg['backbone'], backbone, img_size)
    elif img_size is not None:
        backbone = build(
            dict(cfg['backbone'], img_size=img_size),
            f'model.backbone of {path} with img_size={img_size}')
        arch_before, arch = arch, ViTArchitecture.of_mmpretrain(backbone)
        tensors = dict(
            tensors,
            pos_embed=PositionGrids.of(
                backbone, 'pos_embed', tensors,
                Origin(arch_before.img_size, arch.patch_size)).resampled(
                    tensors['pos_embed'], backbone.pos_embed.shape))
        backbone.load_state_dict(tensors)
    model = TrainedModel(
        file, backbone, arch, tensors,
        _origin(arch, preprocessing_of_config(cfg, arch.in_channels), file),
        interpolation=interpolation_of_config(whole))
    beside = set()
    if layout == 'mmpretrain':
        beside = {f'{name.split(".")[0]}.*' for name in file.tensors}
        beside.remove('backbone.*')
    if with_classifier and 'head.*' in beside:
        _add_classifier(model, cfg, path, out_type)
        beside.remove('head.*')
    model.left_out = sorted(beside) + _no_weights(file)
    return model


def _of_timm(
    cfg: dict, backbone: nn.Module, img_size: Optional[Size]
) -> Tuple[nn.Module, Union[ViTArchitecture, NamedArchitecture], Tensors]:
    """Model, architecture and weights of a ``TimmViT``, ``MaskedTimmViT`` or
    ``TIMMBackbone`` with the file's weights in it."""
    model = backbone.timm_model
    model.global_pool = ''  # DeiT's distilled one keeps its own
    if img_size is not None:
        model.set_input_size(img_size=img_size)
    weights = model.state_dict()
    averages = getattr(backbone, 'out_type', None) == 'avg_featmap'
    try:
        arch = ViTArchitecture.of_timm(model)
        return (model, replace(arch, averages=averages),
                backbone_from_timm(weights))
    except ValueError as error:  # it has parts that only timm knows
        reason = str(error)
    kwargs = {
        name: value for name, value in cfg.items()
        if name not in ('type', 'model_name', 'model_kwargs', 'mask_ratio',
                        'img_size', 'out_type', 'frozen', 'in_channels',
                        'pretrained', 'checkpoint_path', 'init_cfg')
    }
    kwargs.update(cfg.get('model_kwargs', {}))
    if 'in_channels' in cfg:
        kwargs['in_chans'] = cfg['in_channels']
    kwargs['img_size'] = tuple(model.patch_embed.img_size)
    return model, NamedArchitecture.of(model, cfg['model_name'], kwargs,
                                       averages, reason), weights


def trained_in_timm(name: str,
                    file: TensorFile,
                    timm_kwargs: dict,
                    img_size: Optional[Size] = None) -> TrainedModel:
    """Build a model of timm and fill it, strictly.

    Args:
        name (str): Its name in timm.
        file (TensorFile): Its checkpoint.
        timm_kwargs (dict): Further arguments for ``timm.create_model``.
        img_size (tuple[int, int], optional): As in
            :func:`trained_in_mmpretrain`.

    Raises:
        ValueError: If there is no such model, it is no plain vision
            transformer, or checkpoint and model do not fit exactly.
    """
    if not timm.is_model(name):
        raise ValueError(f'{name} is neither a config file nor the name of a '
                         'model in timm.')
    try:
        model = timm.create_model(name, **timm_kwargs)
    except Exception as error:
        raise ValueError(f'timm.create_model({name!r}, **{timm_kwargs}) '
                         f'fails: {one_line(error)}') from None
    arch = ViTArchitecture.of_timm(model)
    load_exactly(model, file.tensors,
                 f"{file.source} as timm's {name} does not fit")
    refuse(f"{file.source} as timm's {name} is misunderstood:",
           other_meaning(model, file.tensors,
                         origin_of(file.meta, file.tensors)),
           'Give the img_size that it was trained with in --timm-kwargs; '
           '--img-size (img_size) then resamples its positions.')
    weights = dict(file.tensors)
    if img_size is not None:
        model.set_input_size(img_size=img_size)
        arch = ViTArchitecture.of_timm(model)
        weights['pos_embed'] = model.pos_embed.detach()
    head = {'head.weight', 'head.bias'} & file.tensors.keys()
    tensors = backbone_from_timm(
        {k: v for k, v in weights.items() if k not in head})
    known = {
        key: tuple(255 * value for value in model.pretrained_cfg[key])
        for key in ('mean', 'std')
    }
    return TrainedModel(
        file,
        model,
        arch,
        tensors,
        _origin(arch, dict(known, to_rgb=True), file, file_first=True),
        left_out=['head.*'] * bool(head) + _no_weights(file),
        interpolation=model.pretrained_cfg.get('interpolation', 'bicubic'))


def _origin(arch: ViTArchitecture,
            given: Dict[str, Any],
            file: TensorFile,
            file_first: bool = False) -> Origin:
    """What the model is: of which images, and who says how to normalise.

    Args:
        arch (ViTArchitecture): The architecture.
        given (dict): ``mean``, ``std`` and ``to_rgb``, by its config or timm.
        file (TensorFile): Its checkpoint.
        file_first (bool): Whether the file knows better. Defaults to False.
    """
    said = normalisation_of(file)
    if said.mean is not None and (file_first or given['mean'] is None):
        given = dict(mean=said.mean, std=said.std, to_rgb=said.to_rgb)
    return Origin(
        img_size=arch.img_size,
        patch_size=arch.patch_size,
        num_heads=arch.num_heads,
        **given)


def _no_weights(file: TensorFile) -> List[str]:
    """Entries of a file that are neither weights nor in its ``meta``."""
    described = {*file.meta, 'meta', '__metadata__'}
    return [name for name in file.ignored if name not in described]


def _add_classifier(model: TrainedModel, cfg: dict, path: str,
                    out_type: Optional[str]) -> None:
    """Fill the trained head, if nothing but a linear layer is in it."""
    leave_out = '--num-classes 0 (num_classes=0) leaves the classifier out'
    if cfg.get('neck') is not None:
        raise ValueError(
            f'In {path}, a {cfg["neck"].get("type")} (model.neck) comes '
            'between backbone and classifier, for which timm has no place. '
            f'{leave_out}.')
    if out_type not in ('cls_token', 'avg_featmap'):
        raise ValueError(
            f'In {path}, the classifier gets out_type={out_type!r}; timm has '
            f'"cls_token" and "avg_featmap". {leave_out}.')
    head = build(cfg.get('head') or {}, f'model.head of {path}')
    if type(head) not in (LinearClsHead, VisionTransformerClsHead) or len(
            head.state_dict()) != 2:
        raise ValueError(
            f'In {path}, model.head is a {type(head).__name__} that is more '
            f'than a linear layer; timm has nothing else. {leave_out}.')
    tensors = under_prefix(model.file.tensors, 'head.')
    load_exactly(head, tensors,
                 f'{model.file.source} as model.head of {path} does not fit')
    model.classifier = head.eval()
    model.classifier_tensors = {
        name.rsplit('.')[-1]: tensor
        for name, tensor in tensors.items()
    }


def mmpretrain_outputs(backbone: nn.Module, images: torch.Tensor) -> Tensors:
    """Features that one of ``BACKBONES`` makes of images, (B, C, H, W).

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
        backbone.out_type = 'raw'
    return outputs


def timm_outputs(model: nn.Module, images: torch.Tensor) -> Tensors:
    """The same of a vision transformer of timm; also ``logits``. As backbone
    of mmpretrain it neither pools nor has a classifier."""
    model.eval()
    tokens = model.forward_features(images)
    outputs = dict(
        tokens=tokens, patches=tokens[:, model.num_prefix_tokens:])
    if model.global_pool:
        outputs.update(
            pooled=model.forward_head(tokens, pre_logits=True),
            logits=model(images))
    return outputs
