"""For ``timm.create_model``: any model of timm that was trained by its maps.

mmpretrain's ``TIMMBackbone(features_only=True)`` wraps a model of timm, with
other names of weights and without what lies behind the last map.
"""
from dataclasses import dataclass
from typing import Any, Dict, Iterator, Optional, Tuple

import timm
import torch
import torch.nn as nn
from mmengine.config import ConfigDict

from dmae_mm.host import read_model_config
from dmae_mm.messages import first_few, one_line

from ..misfits import load_exactly
from ..names import timm_model_state_dict
from ..origin import Origin, normalisation_of, preprocessing_of_config
from ..tensor_file import TensorFile, Tensors
from .export_format import ExportFormat
from .timm_format import TimmFormat
from .trained_model import Size, TrainedModel

# Options of a TIMMBackbone that are not timm's, or that say what is returned.
_NOT_OF_TIMM = ('type', 'model_name', 'features_only', 'out_indices',
                'feature_cls', 'pretrained', 'checkpoint_path', 'in_channels',
                'init_cfg', 'norm_eval')


@dataclass(frozen=True)
class MapArchitecture:
    """A model of timm, and which of its maps was trained.

    Attributes:
        model_name (str): Its name in timm.
        kwargs (dict): Further arguments of ``timm.create_model``.
        maps (dict): Those with which it returns the last trained map.
        img_size (tuple[int, int]): Height and width in pixels.
        in_channels (int): Of the images.
    """
    model_name: str
    kwargs: Dict[str, Any]
    maps: Dict[str, Any]
    img_size: Size
    in_channels: int


class TrainedMaps(TrainedModel):
    """A model of timm whose maps were trained."""

    @torch.no_grad()
    def outputs(self, images: torch.Tensor) -> Tensors:
        """Its last map of images, (B, C, H, W), under the name 'map'."""
        return dict(map=_last_map(self.backbone, images))


def timm_maps(path: str, cfg_options: dict) -> Optional[ConfigDict]:
    """The model of a config whose backbone is trained by its maps.

    Args:
        path (str): The config.
        cfg_options (dict): Changes to it.

    Returns:
        ConfigDict | None: None if it has no such backbone.
    """
    model = read_model_config(path, cfg_options).model
    if _name(model.backbone) == 'TIMMBackbone' and model.backbone.get(
            'features_only', _name(model) == 'FeatureDistiller'):
        return model
    return None


def trained_timm_maps(path: str, model: ConfigDict, file: TensorFile,
                      img_size: Optional[Size]) -> TrainedMaps:
    """The model of timm in a checkpoint.

    Args:
        path (str): Its config, for errors.
        model (ConfigDict): As of :func:`timm_maps`.
        file (TensorFile): The checkpoint.
        img_size (tuple[int, int], optional): None; there is nothing here that
            resamples positions.

    Returns:
        TrainedMaps: With the weights under timm's own names.

    Raises:
        ValueError: If timm makes no model of these weights.
    """
    if img_size is not None:
        raise ValueError(
            f'img_size={img_size}, but model.backbone of {path} is a '
            'TIMMBackbone(features_only=True), which is exported for the size '
            'that it was trained with. Leave it out.')
    backbone = model.backbone.to_dict()
    name = backbone['model_name']
    kwargs = {key: value for key, value in backbone.items()
              if key not in _NOT_OF_TIMM}
    if 'in_channels' in backbone:
        kwargs['in_chans'] = backbone['in_channels']
    weights = timm_model_state_dict(file.tensors)
    for maps in _ways(name, kwargs, backbone):
        with torch.device('meta'), torch.random.fork_rng(devices=[]):
            own = timm.create_model(name, **kwargs, **maps).state_dict()
        if own.keys() == weights.keys():
            break
    else:
        raise ValueError(
            f"{file.source} has not the weights of timm's {name} with "
            f'{kwargs}, as model.backbone of {path} says. Give the config '
            'that it was trained with.')
    network = timm.create_model(name, **kwargs, **maps)
    load_exactly(network, weights,
                 f'{file.source} as model.backbone of {path} does not fit')
    network.eval()
    size = kwargs.get('img_size', network.pretrained_cfg['input_size'][1:])
    size = (size, size) if isinstance(size, int) else tuple(size)
    arch = MapArchitecture(name, kwargs, maps, size,
                           kwargs.get('in_chans', 3))
    said = preprocessing_of_config(model, arch.in_channels)
    if said['mean'] is None:
        found = normalisation_of(file)
        said = dict(mean=found.mean, std=found.std, to_rgb=found.to_rgb)
    beside = sorted({f'{key.split(".")[0]}.*' for key in file.tensors
                     if not key.startswith('backbone.')})
    return TrainedMaps(
        file, network, arch, _plain_names(weights, _plain(arch, 0)),
        Origin(img_size=size, **said), left_out=beside)


class TimmMapFormat(TimmFormat):
    """A file for ``timm.create_model(..., pretrained=True)``, of any model.

    timm loads strictly. What the trained maps do not need, such as a norm or
    convolution behind the last one, has timm's initial values, and the
    classifier zeros.

    Args:
        model (TrainedMaps): The model.
        num_classes (int, optional): Of the classifier; 0 for none. Defaults
            to 1000.
    """

    def __init__(self,
                 model: TrainedModel,
                 num_classes: Optional[int] = None) -> None:
        ExportFormat.__init__(self, model)
        num_classes = 1000 if num_classes is None else num_classes
        self.arch = arch = model.arch
        self.model_name = arch.model_name
        self.kwargs = dict(arch.kwargs, num_classes=num_classes)
        fresh = _plain(arch, num_classes)
        without = _plain(arch, 0).keys()
        self.tensors = {
            name: model.tensors.get(
                name, tensor if name in without else torch.zeros_like(tensor))
            for name, tensor in fresh.items()
        }
        head = sorted(fresh.keys() - without)
        if head:
            self.notes.append(f'{first_few(head)}: zeros, not trained, '
                              f'{num_classes} classes')
        left = sorted(fresh.keys() - {*head} - model.tensors.keys())
        if left:
            self.notes.append(
                f'{len(left)} tensors are not trained, since no trained map '
                f"needs them, and have timm's initial values: "
                f'{first_few(left)}')
        self.source = self._described(arch, num_classes)

    def outputs(self, path: str, images: torch.Tensor) -> Tensors:
        self._load(path)  # strictly
        kwargs = {key: value for key, value in self.kwargs.items()
                  if key != 'num_classes'}
        model = timm.create_model(
            self.model_name,
            pretrained=True,
            pretrained_cfg_overlay=dict(file=path, **self.source),
            **kwargs,
            **self.arch.maps)
        model.eval()
        return dict(map=_last_map(model, images))


def _last_map(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    return model(images)[-1]


def _ways(name: str, kwargs: Dict[str, Any],
          backbone: dict) -> Iterator[Dict[str, Any]]:
    """Arguments with which timm's models return maps, the likeliest first:
    which stage was the last one follows from the weights."""
    classes = [dict(), dict(feature_cls='getter')]
    if 'feature_cls' in backbone:
        classes = [dict(feature_cls=backbone['feature_cls'])]
    for feature_cls in classes:
        try:
            with torch.device('meta'), torch.random.fork_rng(devices=[]):
                info = timm.create_model(
                    name, features_only=True, out_indices=(0, ), **kwargs,
                    **feature_cls).feature_info.info
        except Exception as error:  # of the many kinds of its models
            if feature_cls is classes[-1]:
                raise ValueError(f'timm.create_model({name!r}, '
                                 f'features_only=True, **{kwargs}) fails: '
                                 f'{one_line(error)}') from None
            continue
        for stage in reversed(range(len(info))):
            yield dict(features_only=True, out_indices=(stage, ),
                       **feature_cls)


def _plain(arch: MapArchitecture, num_classes: int) -> Tensors:
    """Weights of the whole model, the same each time."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return timm.create_model(
            arch.model_name, num_classes=num_classes,
            **arch.kwargs).state_dict()


def _plain_names(weights: Tensors, plain: Tensors) -> Tensors:
    """Weights of a wrapped model under the names of the whole one.

    Raises:
        ValueError: If one of them has none.
    """
    left = dict(weights)
    renamed = {}
    for name in plain:
        for wrapped in wrapped_names(name):
            if wrapped in left:
                renamed[name] = left.pop(wrapped)
                break
    if left:
        raise ValueError("timm's own model has no names for "
                         f'{first_few(sorted(left))}.')
    return renamed


def wrapped_names(name: str) -> Tuple[str, ...]:
    """What 'stages.0.x' is called in timm's models that return maps."""
    return (f'model.{name}', name, name.replace('.', '_', 1),
            name.replace('.', '_', 2))


def _name(section: dict) -> str:
    kind = section.get('type', '')
    return getattr(kind, '__name__', str(kind)).rpartition('.')[2]
