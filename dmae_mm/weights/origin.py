"""What a checkpoint says of the model that it was trained in: what neither
names nor shapes of its tensors show."""
import ast
import inspect
import json
import math
from dataclasses import asdict, dataclass, replace
from typing import Any, Dict, List, Optional, Sequence, Tuple

import torch
from mmengine.registry import MODELS
from mmpretrain.models.utils import build_2d_sincos_position_embedding

from dmae_mm.config_text import flat_config, plain_config
from dmae_mm.options import is_finite_number

from .names import layout_of
from .tensor_file import TensorFile, Tensors

# Where files of this package keep it, in their `meta`.
KEY = 'trained_as'
# Where a converted file, of unknown mean and std, keeps what was not of MAE.
NOT_OF_MAE = 'not_of_mae'
# Where the configs in checkpoints of MMEngine and of older OpenMMLab do.
_CONFIG_KEYS = ('cfg', 'config')
_PREPROCESSORS = ('model.data_preprocessor', 'data_preprocessor',
                  'img_norm_cfg')
_TO_RGB = ('to_rgb', 'bgr_to_rgb', 'rgb_to_bgr')
# How options of a backbone begin that are of no interest to whoever builds it
# once more.
OF_TRAINING = ('init_cfg', 'out_', 'frozen', 'drop_', 'with_cp',
               'mask_ratio')
# For pixel values from 0 to 255. MAE's pre-training has these.
IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)
_BEFORE_MMPRETRAIN = ('mmcls', 'mmselfsup')  # these packages became it
_EPS_OF_PYTORCH = 1e-5  # of a batch norm whose config does not say it
# What MAE's pre-training does not have, at the front of names, or anywhere.
_NOT_OF_MAE = ('head.', 'head_dist.', 'dist_token', 'norm_pre.', 'fc_norm.',
               'attn_pool.', 'reg_token', 'register_tokens')
_LAYER_SCALE = ('.ls1.gamma', '.ls2.gamma')


@dataclass(frozen=True)
class Origin:
    """How a checkpoint's model was trained; None for what is not said.

    Attributes:
        img_size (tuple[int, int], optional): Height and width of the images
            for which it has positions.
        patch_size (tuple[int, int], optional): Height and width of a patch.
        num_heads (int, optional): Attention heads of a block.
        style (str, optional): Of a ResNet, which convolution of a block has
            its stride: 'pytorch' the 3 x 3, 'caffe' the first 1 x 1.
        norm_eps (float, optional): Of batch norms.
        backbone (str, optional): Its class, behind its package:
            'mmpretrain.ResNet'.
        mean (tuple[float], optional): Per channel, what was subtracted from
            pixel values of 0 to 255.
        std (tuple[float], optional): By what they were divided.
        to_rgb (bool, optional): Whether the order of the channels was
            reversed after loading, where OpenMMLab has BGR.
        said_by (str): Who says so, for messages.
    """
    img_size: Optional[Tuple[int, int]] = None
    patch_size: Optional[Tuple[int, int]] = None
    num_heads: Optional[int] = None
    mean: Optional[Tuple[float, ...]] = None
    std: Optional[Tuple[float, ...]] = None
    to_rgb: Optional[bool] = None
    said_by: str = 'its metadata'
    style: Optional[str] = None
    norm_eps: Optional[float] = None
    backbone: Optional[str] = None

    def grid(self, number: int) -> Optional[Tuple[int, int]]:
        """Rows and columns of so many patches; None if it is not said, or
        there are not so many."""
        if self.img_size is None or self.patch_size is None:
            return None
        # mmpretrain fills up the last patch, timm leaves it out.
        for whole in (math.ceil, math.floor):
            grid = tuple(whole(pixels / patch) for pixels, patch in zip(
                self.img_size, self.patch_size))
            if math.prod(grid) == number:
                return grid
        return None

    def for_channels(self, number: int) -> 'Origin':
        """With one mean and std for each channel, where one stands for
        all."""
        return replace(self, mean=self.mean * number, std=self.std * number)

    def as_meta(self, with_speaker: bool = False) -> Dict[str, Any]:
        """What to write into a file's ``meta``.

        Args:
            with_speaker (bool): Keep who says so. Defaults to False, since
                in a file that is the file.
        """
        said = asdict(self)
        if not with_speaker:
            del said['said_by']
        return {
            KEY: {
                name: list(value) if isinstance(value, tuple) else value
                for name, value in said.items() if value is not None
            }
        }


def origin_of(meta: Dict[str, Any], tensors: Tensors = {}) -> Origin:
    """Read it from what a checkpoint says about itself; nothing is executed.

    Args:
        meta (dict): As in a :class:`TensorFile`: an entry ``trained_as``, or
            the config of a run of MMEngine, ``cfg``.
        tensors (dict[str, torch.Tensor]): Its weights, of which the patch
            embedding has the size of a patch. Defaults to {}.

    Returns:
        Origin: What was found, as far as it makes sense.
    """
    said = meta.get(KEY)
    if isinstance(said, str):  # .safetensors has text only
        try:
            said = json.loads(said)
        except ValueError:
            said = None
    said_by = f"its metadata ('{KEY}')"
    if isinstance(said, dict) and isinstance(said.get('said_by'), str):
        said_by = said['said_by']
    if not isinstance(said, dict):
        said, said_by = {}, 'the config in it'
        for text in map(meta.get, _CONFIG_KEYS):
            if isinstance(text, str):
                said = said or _of_config(text)
    mean, std = (_floats(said.get(name)) for name in ('mean', 'std'))
    if None in (mean, std) or len(mean) != len(std) or min(std) <= 0:
        mean = std = None
    patch_size = next((tuple(tensor.shape[-2:])
                       for name, tensor in tensors.items()
                       if tensor.dim() == 4 and name.endswith((
                           'patch_embed.proj.weight',
                           'patch_embed.projection.weight'))), None)
    to_rgb, num_heads = said.get('to_rgb'), said.get('num_heads')
    style, eps, kind = map(said.get, ('style', 'norm_eps', 'backbone'))
    return Origin(
        img_size=_size(said.get('img_size')),
        patch_size=patch_size or _size(said.get('patch_size')),
        num_heads=num_heads if type(num_heads) is int else None,
        mean=mean,
        std=std,
        to_rgb=to_rgb if isinstance(to_rgb, bool) else None,
        said_by=said_by,
        style=style if isinstance(style, str) else None,
        norm_eps=eps if is_finite_number(eps) else None,
        backbone=kind if isinstance(kind, str) else None)


def normalisation_of(file: TensorFile) -> Origin:
    """As :func:`origin_of`, and for files of MAE the mean and std of MAE."""
    origin = origin_of(file.meta, file.tensors)
    if origin.mean is None and _is_of_mae(file):
        return Origin(
            mean=IMAGENET_MEAN,
            std=IMAGENET_STD,
            said_by="MAE's pre-training, of which it is a file")
    return origin


def signs_of_another_origin(file: TensorFile) -> List[str]:
    """What in a file without known mean and std is not of MAE.

    Returns:
        list[str]: Names of tensors; [] where nothing tells.
    """
    if isinstance(file.meta.get(NOT_OF_MAE), str):
        return [file.meta[NOT_OF_MAE]]
    names = list(file.tensors)
    layout = layout_of(file.tensors)
    if layout == 'timm/MAE':
        found = [
            name for name in names
            if name.startswith(_NOT_OF_MAE) or name.endswith(_LAYER_SCALE)
        ]
        if not found and 'arch' in file.meta:  # of timm's own training
            found = [f'arch={file.meta["arch"]!r}']
        if not found and 'cls_token' not in file.tensors:
            found = ['no cls_token']
        return found
    if layout in ('mmpretrain', 'mmpretrain backbone'):  # CLIP
        return [name for name in names
                if name.removeprefix('backbone.').startswith('pre_norm.')]
    return []


def _is_of_mae(file: TensorFile) -> bool:
    """Whether it is a file of MAE or DMAE: a whole model, a fine-tuned one as
    FAIR writes it, or an encoder with MAE's fixed positions."""
    if layout_of(file.tensors) != 'timm/MAE':
        return False
    if any(name.startswith('decoder_') for name in file.tensors):
        return True
    signs = signs_of_another_origin(file)
    if not signs:
        return _has_fixed_positions(file.tensors)
    # Fine-tuned ones average the patches, which moves the norm behind it.
    return (file.weights_key == 'model' and 'norm.weight' not in file.tensors
            and all(name.startswith(('fc_norm.', 'head.')) for name in signs))


def _has_fixed_positions(tensors: Tensors) -> bool:
    """Whether the positions are sines and cosines, which MAE never trains."""
    given = tensors.get('pos_embed')
    if given is None or given.dim() != 3 or given.shape[-1] % 4:
        return False
    grid = square(given.shape[1] - 1)
    if grid is None:
        return False
    fixed = build_2d_sincos_position_embedding(
        grid[0], given.shape[-1], cls_token=True)
    return torch.allclose(given.float(), fixed.float(), atol=1e-2)


def preprocessing_of_config(model: dict, in_channels: int) -> Dict[str, Any]:
    """Mean, std and order of the channels in the ``model`` of a config.

    Returns:
        dict[str, Any]: ``mean``, ``std`` and ``to_rgb`` of an
        :class:`Origin`; None for each if it does not normalise.
    """
    cfg = model.get('data_preprocessor') or {}
    mean, std = (_floats(cfg.get(name)) for name in ('mean', 'std'))
    if mean is None or std is None:
        return dict(mean=None, std=None, to_rgb=None)
    mean, std = (values * in_channels if len(values) == 1 else values
                 for values in (mean, std))  # one stands for all
    return dict(
        mean=mean,
        std=std,
        to_rgb=any(bool(cfg.get(name)) for name in _TO_RGB))


def _of_config(text: str) -> Dict[str, Any]:
    """The same entries as under :data:`KEY`, from a config as text."""
    try:
        flat = flat_config(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {}

    def read(name: str) -> Any:
        try:
            return ast.literal_eval(flat[name])
        except (KeyError, SyntaxError, ValueError):
            return None

    said = {
        name: read(f'model.backbone.{name}')
        for name in ('img_size', 'patch_size', 'num_heads')
    }
    said['backbone'] = _with_package(
        read('model.backbone.type'), read('default_scope'))
    cls = _class_of(said['backbone'])
    arch = read('model.backbone.arch')
    if cls is not None and hasattr(cls, 'arch_zoo'):
        arch = cls.arch_zoo.get(str(arch or 'base').lower())
        if isinstance(arch, dict):  # of an HRNet, it is a list
            said['num_heads'] = arch.get('num_heads')
    if 'model.backbone.arch.num_heads' in flat:
        said['num_heads'] = read('model.backbone.arch.num_heads')
    norm = {
        name: read(f'model.backbone.norm_cfg.{name}')
        for name in ('type', 'eps')
    }
    said['style'] = read('model.backbone.style')
    if cls is not None:
        for option in ('img_size', 'style'):
            if said[option] is None:
                said[option] = _default(cls, option)
        if norm['type'] is None:
            norm = _default(cls, 'norm_cfg') or norm
    if norm.get('type') in ('BN', 'SyncBN'):
        said['norm_eps'] = norm.get('eps') or _EPS_OF_PYTORCH
    for owner in _PREPROCESSORS:
        if said.get('mean') is None:
            said.update(mean=read(f'{owner}.mean'), std=read(f'{owner}.std'))
            said['to_rgb'] = None if said['mean'] is None else any(
                read(f'{owner}.{name}') for name in _TO_RGB)
    return said


def _with_package(kind: Any, scope: Any) -> Optional[str]:
    """A ``type`` of a config with its ``default_scope`` in front."""
    if not isinstance(kind, str) or '.' in kind:
        return kind if isinstance(kind, str) else None
    if scope in (None, *_BEFORE_MMPRETRAIN):
        scope = 'mmpretrain'
    return f'{scope}.{kind}'


def _class_of(backbone: Optional[str]) -> Optional[type]:
    """The class of a backbone, if its package is imported."""
    package, _, name = (backbone or '').rpartition('.')
    registry = MODELS.children.get(package)
    return None if registry is None else registry.module_dict.get(name)


def _default(cls: type, option: str) -> Any:
    """What a class takes for an option that is not given."""
    parameter = inspect.signature(cls).parameters.get(option)
    default = None if parameter is None else parameter.default
    return None if default is inspect.Parameter.empty else default


def backbone_said(meta: Dict[str, Any]) -> Dict[str, Any]:
    """The options of a backbone in the config that a checkpoint holds.

    Args:
        meta (dict): As in a :class:`TensorFile`.

    Returns:
        dict[str, Any]: Those that are plain values and say what is built,
        with dots in the names of nested ones; 'type' first, with its package,
        'mmpretrain.ResNet'. {} if it holds no config.
    """
    for text in map(meta.get, _CONFIG_KEYS):
        try:
            flat = flat_config(text) if isinstance(text, str) else {}
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
        said = {}
        for name, value in flat.items():
            option = name.removeprefix('model.backbone.')
            if option == name or option.startswith(OF_TRAINING):
                continue
            try:
                said[option] = ast.literal_eval(value)
            except (SyntaxError, ValueError):
                pass
        kind = _with_package(said.pop('type', None),
                             flat.get('default_scope', '').strip("'") or None)
        if kind is not None:
            return {'type': kind, **said}
    return {}


def config_said(meta: Dict[str, Any]) -> Dict[str, Any]:
    """The config of mmpretrain in a checkpoint of a run, or in a file that
    was exported from one.

    Args:
        meta (dict): As in a :class:`TensorFile`.

    Returns:
        dict[str, Any]: As of :func:`plain_config`; {} if it holds none, of a
        model with a backbone.
    """
    source = meta.get('source_meta')
    if isinstance(source, str):  # .safetensors has text only
        try:
            source = json.loads(source)
        except (ValueError, RecursionError):
            source = None
    for said in (meta, source if isinstance(source, dict) else {}):
        for text in map(said.get, _CONFIG_KEYS):
            try:
                config = plain_config(text) if isinstance(text, str) else {}
            except (SyntaxError, ValueError, RecursionError, MemoryError):
                continue
            model = config.get('model')
            if (config.get('default_scope', 'mmpretrain') in (
                    'mmpretrain', *_BEFORE_MMPRETRAIN)
                    and isinstance(model, dict)
                    and isinstance(model.get('backbone'), dict)):
                return config
    return {}


def _size(value: Any) -> Optional[Tuple[int, int]]:
    """Height and width, of two numbers or one."""
    if type(value) is int:
        value = (value, value)
    if isinstance(value, (list, tuple)) and len(value) == 2 and all(
            type(side) is int and side > 0 for side in value):
        return tuple(value)
    return None


def _floats(values: Any) -> Optional[Tuple[float, ...]]:
    if is_finite_number(values):
        values = [values]
    if isinstance(values, Sequence) and len(values) > 0 and all(
            map(is_finite_number, values)):
        return tuple(map(float, values))
    return None


def square(number: int) -> Optional[Tuple[int, int]]:
    """Rows and columns of so many patches in a square; None if they are in
    none."""
    side = math.isqrt(number)
    return (side, side) if side * side == number else None
