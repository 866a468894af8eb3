"""From the name of a student to its section of a config."""
import difflib
import os.path as osp
from dataclasses import dataclass, replace
from typing import Any, Dict, List, Optional, Sequence, Tuple

import timm
import torch
from mmengine.registry import DefaultScope
from mmpretrain.apis import list_models
from mmpretrain.models import SparseConvNeXt, SparseResNet, TIMMBackbone
from mmpretrain.models.backbones import VisionTransformer
from mmpretrain.models.selfsup import (MAEHiViT, MAEViT,
                                       SimMIMSwinTransformer)
from mmpretrain.registry import MODELS

from dmae_mm.host import complete_model, quietly, read_named_config
from dmae_mm.models.feature_maps import map_backbone
from dmae_mm.models.mmpretrain_vits import img_size, patch_size
from dmae_mm.models.students import MaskedTimmViT
from dmae_mm.models.timm_vits import create_model
from dmae_mm.options import legal_options

from .network_look import build_without_data, parameters_of, why_not_at

# By what algorithm a student learns, and so on which files its config stands.
_BASES = {
    'masked': ('models/dmae_vit-p16', 'schedules/pretrain_100e'),
    'features': ('models/features_dinov2-b', 'schedules/features_100e'),
}
_BASE_FILES = ('datasets/image_folder', 'default_runtime')
_RECIPES = {
    SimMIMSwinTransformer: 'swin-t_dmae-simmim_in1k',
    SparseResNet: 'resnet50_dmae-spark_in1k',
    SparseConvNeXt: 'convnext-t_dmae-spark_in1k',
}
# Of images that networks take which are made for none of their own.
ANY_SIZE = 224
# Pixels of a place of a last map, and of a region that SimMIM and SparK hide.
UNIT = 32
# What does not change which weights a VisionTransformer has.
_NOT_WEIGHTS = ('type', 'out_type', 'out_indices', 'final_norm', 'init_cfg',
                'frozen_stages', 'drop_rate', 'drop_path_rate', 'in_channels')
# What a MAEViT has as well.
_OF_MAE_VIT = ('arch', 'img_size', 'patch_size', 'norm_cfg',
               'interpolate_mode', 'patch_cfg', 'layer_cfgs')


@dataclass(frozen=True)
class StudentChoice:
    """A student, before its images are known.

    Attributes:
        name (str): By which it was given.
        kind (str): 'masked', a ViT that sees visible patches alone and
            learns pixels beside its teacher; 'simmim' or 'spark',
            mmpretrain's other masked backbones; 'features', any other.
        backbone (dict): Its section of a config.
        configs (tuple[str]): The config files, seen from ``configs``, that
            together are the recipe for it.
        size (int): Height and width of the images that it is made for.
        shrinks (bool): Whether it may get smaller images unasked: not so
            where windows or tables of positions are made for its size.
        unit (int): Of which sizes should be multiples: a patch, in pixels,
            or :data:`UNIT`.
        width (int): Channels of a masked student's tokens; else 0.
        parameters (int): How many it has.
        note (str): What was chosen, for the reasons.
    """
    name: str
    kind: str
    backbone: Dict[str, Any]
    configs: Tuple[str, ...]
    size: int
    shrinks: bool
    unit: int
    width: int
    parameters: int
    note: str

    def at(self, size: int, channels: int = 3) -> 'StudentChoice':
        """For images of a size, and of so many channels.

        Raises:
            ValueError: If it does not take them, with the nearest size that
                it takes.
        """
        problem = self._problem(size, channels)
        if problem and size == self.size:
            raise ValueError(f'The student {self.name} cannot be trained: '
                             f'{problem}. Choose another.')
        if problem:
            nearest = next((
                str(other) for other in self._near(size)
                if not self._problem(other, channels)), 'none near it')
            raise ValueError(
                f'--size {size} does not fit the student {self.name}: '
                f'{problem}. The nearest that fits: {nearest}. Its own is '
                f'{self.size}.')
        return replace(self, backbone=self._section(size, channels))

    def _near(self, size: int) -> List[int]:
        near = [self.unit * number for number in range(
            1, max(2 * size, 2 * self.size) // self.unit + 1)]
        return sorted(near, key=lambda other: abs(other - size))[:8]

    def _problem(self, size: int, channels: int) -> Optional[str]:
        if self.kind != 'features':
            what = 'patches' if self.kind == 'masked' else 'regions'
            number = size // self.unit
            if size % self.unit:
                return (f'{size} is no multiple of its {what} of {self.unit} '
                        'pixels')
            if number < 2:
                return f'{number} x {number} {what} leave nothing to hide'
            return None
        try:
            section, _ = _maps(self._section(size, channels))
            network = build_without_data(section, 'the student')
        except ValueError as error:
            return str(error)
        return why_not_at(network, size, channels)

    def _section(self, size: int, channels: int) -> Dict[str, Any]:
        section = dict(self.backbone)
        kind = section['type']
        if kind == 'TIMMBackbone':
            fixed = getattr(timm.get_pretrained_cfg(
                section['model_name'], allow_unregistered=True),
                            'fixed_input_size', False)
            if fixed and size != self.size:
                section['img_size'] = size
        elif 'img_size' in _options(kind):
            section['img_size'] = size
        if channels != 3:
            _set_channels(section, channels)
        return section


def choose_student(name: str) -> StudentChoice:
    """Find out what a student is.

    Args:
        name (str): Of a model of timm, or of mmpretrain's model zoo, or the
            path of a config of mmpretrain.

    Returns:
        StudentChoice: Its section, and what a plan needs to know. Nothing is
        built with data.

    Raises:
        FileNotFoundError: If it is a path, and no such file is there.
        ValueError: If there is no such model, with names close to it.
    """
    if timm.is_model(name):
        return _of_timm(name)
    is_path = name.endswith('.py') or osp.dirname(name) or osp.isfile(name)
    if not is_path and name.lower() not in map(str.lower, list_models()):
        raise ValueError(_unknown(name))
    with quietly():
        config, _ = read_named_config(name)
    complete_model(config, name)
    return _of_mmpretrain(config.model.backbone.to_dict(), name)


def _unknown(name: str) -> str:
    architecture = name.partition('.')[0]
    close = {
        'timm': difflib.get_close_matches(architecture, timm.list_models(), 4),
        'mmpretrain': difflib.get_close_matches(name, list_models(), 4)
    }
    listed = '; '.join(f'of {owner} {", ".join(names)}'
                       for owner, names in close.items() if names)
    return (f'There is no student {name!r}: it is no model of timm '
            f'{timm.__version__}, no name of mmpretrain\'s model zoo and no '
            f'config file (.py). Close to it are {listed or "none"}.')


def _of_timm(name: str) -> StudentChoice:
    try:
        with torch.device('meta'), torch.random.fork_rng(devices=[]):
            network = create_model(name, {}, 'student')
    except ValueError:
        return _maps_of_timm(name)
    rows = network.patch_embed.patch_size
    size = network.patch_embed.img_size
    if rows[0] != rows[1] or size[0] != size[1]:
        return _maps_of_timm(name)
    return StudentChoice(
        name=name,
        kind='masked',
        backbone=dict(type='MaskedTimmViT', model_name=name),
        configs=_base_configs('masked'),
        size=size[0],
        shrinks=True,
        unit=rows[0],
        width=network.embed_dim,
        parameters=_without_head(network),
        note=f'{name} of timm is a ViT that can run on visible patches '
        'alone: DMAE, with a decoder')


def _without_head(network: torch.nn.Module) -> int:
    network.reset_classifier(0)
    return parameters_of(network)


def _maps_of_timm(name: str) -> StudentChoice:
    with torch.device('meta'), torch.random.fork_rng(devices=[]), quietly():
        network = timm.create_model(name, num_classes=0)
    known = network.pretrained_cfg or {}
    size = (known.get('input_size') or (3, ANY_SIZE, ANY_SIZE))[-1]
    backbone = dict(type='TIMMBackbone', model_name=name)
    _maps(backbone)
    return StudentChoice(
        name=name,
        kind='features',
        backbone=backbone,
        configs=_base_configs('features'),
        size=size,
        shrinks=not known.get('fixed_input_size', False),
        unit=UNIT,
        width=0,
        parameters=parameters_of(network),
        note=f'{name} of timm gives maps: FeatureDistiller, without decoder')


def _of_mmpretrain(backbone: Dict[str, Any], name: str) -> StudentChoice:
    """Of the backbone of a config."""
    kind = backbone.get('type')
    cls = MODELS.get(kind) if isinstance(kind, str) else kind
    if cls is None:
        raise ValueError(f'The student {name!r} has a backbone of the type '
                         f'{kind!r}, which mmpretrain does not know.')
    if cls is TIMMBackbone and timm.is_model(backbone.get('model_name', '')):
        return _of_timm(backbone['model_name'])
    section = {
        key: value for key, value in backbone.items()
        if key not in ('init_cfg', 'frozen_stages', '_scope_')
    }
    section['type'] = cls.__name__
    if cls is VisionTransformer:
        section = _as_mae_vit(section) or section
        cls = MODELS.get(section['type'])
    recipe = _RECIPES.get(cls)
    if recipe:
        swin = cls is SimMIMSwinTransformer
        network = build_without_data(section, f'the student {name!r}')
        return StudentChoice(
            name=name,
            kind='simmim' if swin else 'spark',
            backbone=section,
            configs=(f'students/{recipe}.py', ),
            size=section.get('img_size', ANY_SIZE),
            unit=UNIT,
            width=network.stages[-1].out_channels if swin else 0,
            parameters=parameters_of(network),
            note=f'{name} is a {cls.__name__}: as the recipe {recipe}, the '
            'loss of ' + ('SimMIM' if swin else 'SparK') +
            ' beside the teacher',
            shrinks=False)
    if cls in (MAEViT, MAEHiViT, MaskedTimmViT):
        return _masked(section, cls, name)
    _maps(section)
    network = build_without_data(section, f'the student {name!r}')
    size = section.get('img_size') or ANY_SIZE
    return StudentChoice(
        name=name,
        kind='features',
        backbone=section,
        configs=_base_configs('features'),
        size=size if isinstance(size, int) else size[0],
        unit=UNIT,
        width=0,
        parameters=parameters_of(network),
        note=f'{name} is a {cls.__name__} of mmpretrain: FeatureDistiller, '
        'without decoder',
        shrinks='img_size' not in _options(section['type']))


def _masked(section: Dict[str, Any], cls: type,
            name: str) -> StudentChoice:
    if cls is MAEHiViT:
        # Its default is one list, which all of them share and change; and it
        # initialises itself.
        depth = build_without_data(
            dict(section, out_indices=[0]), 'the student').num_main_blocks
        section.update(out_indices=[depth - 1])
    network = build_without_data(section, f'the student {name!r}')
    side, size = patch_size(network), img_size(network)
    if len({*side}) + len({*size}) > 2:
        raise ValueError(
            f'The student {name!r} has patches of {side[0]} x {side[1]} in '
            f'images of {size[0]} x {size[1]} pixels. Only square ones can be '
            'derived a config for: write one, docs/students.md.')
    return StudentChoice(
        name=name,
        kind='masked',
        backbone=section,
        configs=_base_configs('masked'),
        size=size[0],
        shrinks=True,
        unit=side[0],
        width=network.embed_dims,
        parameters=parameters_of(network),
        note=f'{name} becomes a {cls.__name__}, which runs on visible patches '
        'alone: DMAE, with a decoder')


def _as_mae_vit(section: Dict[str, Any]) -> Optional[Dict[str, Any]]:
    """The masked backbone with the same weights, if there is one."""
    own = {key: value for key, value in section.items()
           if key not in _NOT_WEIGHTS}
    defaults = dict(with_cls_token=True, qkv_bias=True, pre_norm=False,
                    layer_scale_init_value=0.)
    if any(own.pop(key, value) != value for key, value in defaults.items()):
        return None
    if not own.keys() <= {*_OF_MAE_VIT}:
        return None
    return dict(type='MAEViT', **own)


def _maps(backbone: Dict[str, Any]) -> Tuple[Dict[str, Any], int]:
    """What a FeatureDistiller makes of it for its last stage."""
    with DefaultScope.overwrite_default_scope('mmpretrain'), quietly():
        return map_backbone(backbone, [-1])


def _options(kind: str) -> Sequence[str]:
    return legal_options(MODELS.get(kind), named=True) or ()


def _base_configs(kind: str) -> Tuple[str, ...]:
    return tuple(f'_base_/{name}.py' for name in (*_BASES[kind],
                                                  *_BASE_FILES))


def _set_channels(section: Dict[str, Any], channels: int) -> None:
    """Tell a backbone how many channels its images have."""
    kind = section['type']
    options = _options(kind)
    if kind == 'MaskedTimmViT':
        section['model_kwargs'] = dict(
            section.get('model_kwargs') or {}, in_chans=channels)
    elif 'in_channels' in options:
        section['in_channels'] = channels
    elif 'patch_cfg' in options:
        section['patch_cfg'] = dict(
            section.get('patch_cfg') or {}, in_channels=channels)
    else:
        raise ValueError(
            f'The images have {channels} channels, and a {kind} takes 3. '
            'Choose a ViT as student, or another backbone with an option '
            'in_channels.')
