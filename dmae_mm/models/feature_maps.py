"""Maps that a backbone of any kind returns: of which stages, how wide."""
import contextlib
import copy
import inspect
import logging
from dataclasses import dataclass
from typing import Any, Dict, Iterator, List, Sequence, Tuple, Union

import torch
import torch.nn as nn
import torch.nn.functional as F
from mmpretrain.models import TIMMBackbone
from mmpretrain.registry import MODELS
from torch._subclasses.fake_tensor import FakeTensorMode

from dmae_mm.host import quietly
from dmae_mm.messages import one_line
from dmae_mm.options import legal_options

from .mmpretrain_vits import check_arch
from .student_input import input_channels
from .students import outputs_of_whole_images
from .tokens import resolve_block

# Which stages a backbone returns, by the names that this has.
_STAGES = ('out_indices', 'out_scales')
# What lets backbones return maps: of the options that one has, those that its
# config does not give are set.
_MAP_OPTIONS = dict(
    out_type='featmap',
    gap_before_final_norm=False,
    gap_before_output=False,
    reshape_last_feat=True,
    features_only=True)


@dataclass(frozen=True)
class FeatureMaps:
    """What a backbone returns.

    Attributes:
        stages (tuple[int]): Index of the stage of each output, in order.
        widths (dict[int, int]): Channels of the aligned ones.
        num_stages (int): How many stages the backbone has.
        unused (list[str]): Names of its parameters on which no aligned map
            depends.
    """
    stages: Tuple[int, ...]
    widths: Dict[int, int]
    num_stages: int
    unused: List[str]


def map_backbone(backbone: dict,
                 aligned: Sequence[Union[int, float]]) -> Tuple[dict, int]:
    """The config of a backbone that returns maps of the aligned stages.

    What the backbone's own options are called, and how many stages it has,
    is found by building it as its config says: the last of the stages that
    it returns by default is the last there is.

    Args:
        backbone (dict): Config of a backbone. Options that it gives, such as
            ``out_indices``, stay as they are.
        aligned (Sequence[int | float]): Stages: see :func:`resolve_block`.

    Returns:
        tuple[dict, int]: The config, and how many stages there are; 0 where
        only running it tells.

    Raises:
        ValueError: If there is no such stage, or the backbone cannot be
            built.
    """
    cls = _class_of(backbone)
    check_arch('backbone', backbone)
    options = _options(cls)
    cfg = dict(backbone)
    for name, value in _MAP_OPTIONS.items():
        if name in options and value in getattr(cls, 'OUT_TYPES', [value]):
            cfg.setdefault(name, value)
    name = next((name for name in _STAGES if name in options), None)
    if issubclass(cls, TIMMBackbone):
        name = 'out_indices' if cfg['features_only'] else None
    if name is None:
        return cfg, 0
    default = _build_for_a_look(
        {key: value for key, value in cfg.items() if key != name}, cls)
    if issubclass(cls, TIMMBackbone):
        number = len(default.timm_model.feature_info.info)
        if str(getattr(default.timm_model, 'output_fmt', '')).endswith(
                'NHWC'):
            # Its channels would be last: this class of timm's turns them.
            cfg.setdefault('feature_cls', 'getter')
    else:
        number = _largest(getattr(default, name, _default(cls, name))) + 1
    wanted = sorted({
        resolve_block(stage, number, 'student', 'stage')
        for stage in aligned
    })
    if name not in cfg and wanted == [number - 1] and not issubclass(
            cls, TIMMBackbone):
        return cfg, number  # as it is by default
    given = cfg.setdefault(name, wanted)
    given = [index % number for index in (
        [given] if isinstance(given, int) else given)]
    missing = [stage for stage in wanted if stage not in given]
    if missing:
        raise ValueError(
            f'backbone: {name}={cfg[name]!r} leaves out the stages {missing}, '
            f'which aligned_layers names. Remove {name}, which follows from '
            'them, or add them.')
    cfg[name] = sorted({*given})
    return cfg, number


def look_at(backbone: nn.Module, cfg: dict, num_stages: int,
            aligned: Sequence[Union[int, float]]) -> FeatureMaps:
    """Find out what a backbone returns, by a forward and backward pass.

    A copy of it runs on tensors without data, or, where it does not run on
    them, on the CPU. So neither its batch norms' statistics nor any state of
    random numbers change.

    Args:
        backbone (nn.Module): Built of ``cfg``.
        cfg (dict): As of :func:`map_backbone`.
        num_stages (int): Likewise.
        aligned (Sequence[int | float]): Stages.

    Returns:
        FeatureMaps: What was found.

    Raises:
        ValueError: If it cannot be run, returns no map of an aligned stage,
            or such a stage is frozen.
    """
    name = type(backbone).__name__
    size = _image_size(backbone, cfg)
    shape = (2, input_channels(backbone), *size)
    with torch.random.fork_rng(devices=[]), quietly(), _silent_torch(
    ), torch.enable_grad():
        # In training mode, as built: a part may have none else.
        mode = FakeTensorMode(allow_non_fake_inputs=True)
        trial = copy.deepcopy(backbone)
        try:
            with mode:
                outputs = outputs_of_whole_images(trial, torch.empty(shape))
        except Exception:  # of the many kinds that such tensors raise
            mode = contextlib.nullcontext()
            trial = copy.deepcopy(backbone)
            try:
                outputs = outputs_of_whole_images(trial, torch.randn(shape))
            except Exception as error:  # whatever a backbone raises
                raise ValueError(
                    f'backbone: a {name} cannot be run on images of '
                    f'{size[0]} x {size[1]} px with {_shown(cfg)}: '
                    f'{one_line(error)}') from None
        stages = _stages_of(backbone, cfg, num_stages, len(outputs))
        num_stages = num_stages or len(outputs)
        wanted = {
            resolve_block(stage, num_stages, 'student', 'stage')
            for stage in aligned
        }
        if not wanted <= {*stages}:
            raise ValueError(
                f'backbone: a {name} with {_shown(cfg)} returns the stages '
                f'{list(stages)}, and aligned_layers names {sorted(wanted)}. '
                'Align one of those that it returns.')
        maps = {
            stage: output
            for stage, output in zip(stages, outputs) if stage in wanted
        }
        for stage, output in maps.items():
            _check_map(name, cfg, stage, output)
        parameters = {
            key: p for key, p in trial.named_parameters() if p.requires_grad
        }
        frozen = [s for s, output in maps.items() if not output.requires_grad]
        if frozen:
            raise ValueError(
                f'backbone: its stages {frozen} are frozen (frozen_stages), '
                'so nothing can be taught to them. Align later stages, or '
                'freeze fewer.')
        # Some, such as reversible blocks, set gradients in their backward.
        with mode:
            sum(output.sum() for output in maps.values()).backward()
        unused = [key for key, p in parameters.items() if p.grad is None]
    return FeatureMaps(
        stages, {s: output.shape[1] for s, output in maps.items()},
        num_stages, unused)


def on_grid(feature_map: torch.Tensor, grid: Tuple[int, int]) -> torch.Tensor:
    """Tokens of a map, one for each patch of a teacher's grid.

    Along each axis, where the map is finer than the grid, a token is the mean
    of the places that its patch covers (as in adaptive average pooling);
    where it is coarser, the map is interpolated linearly between the middles
    of its places (``align_corners=False``). Both are matrices of one row a
    token, so that gradients are sums in a fixed order.

    Args:
        feature_map (torch.Tensor): (B, C, h, w).
        grid (tuple[int, int]): Rows and columns of patches.

    Returns:
        torch.Tensor: (B, rows * columns, C), row by row.
    """
    if tuple(feature_map.shape[2:]) != tuple(grid):
        rows, columns = (
            _resampling(size, number).to(feature_map)
            for size, number in zip(feature_map.shape[2:], grid))
        feature_map = rows @ feature_map @ columns.T  # (B, C, rows, columns)
    return feature_map.flatten(2).transpose(1, 2)


def _resampling(size: int, number: int) -> torch.Tensor:
    """Weights of the places of an axis in each of its tokens, (number,
    size)."""
    places = torch.eye(size).unsqueeze(0)
    if number <= size:
        return F.adaptive_avg_pool1d(places, number)[0].T
    return F.interpolate(places, size=number, mode='linear')[0].T


@contextlib.contextmanager
def _silent_torch() -> Iterator[None]:
    """Without PyTorch's own report of what does not run without data."""
    logger = logging.getLogger('torch._subclasses.fake_tensor')
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def _check_map(name: str, cfg: dict, stage: int, output: Any) -> None:
    if isinstance(output, torch.Tensor) and output.dim() == 4:
        return
    found = (f'of shape (B, {", ".join(map(str, output.shape[1:]))})'
             if isinstance(output, torch.Tensor) else
             f'a {type(output).__name__}')
    options = _options(_class_of(cfg))
    cures = [f'{key}={value!r}' for key, value in _MAP_OPTIONS.items()
             if key in options and cfg.get(key) != value]
    if 'num_classes' in options and cfg.get('num_classes', 0) > 0:
        cures.append('num_classes=-1')
    cure = (f'Set {", ".join(cures)} in backbone.' if cures else
            'None of its options makes it return one: choose another '
            'backbone, or for a vision transformer DMAE.')
    raise ValueError(
        f'backbone: stage {stage} of a {name} with {_shown(cfg)} is no map '
        f'(B, C, rows, columns), but {found}. {cure}')


def _stages_of(backbone: nn.Module, cfg: dict, num_stages: int,
               number: int) -> Tuple[int, ...]:
    """Index of the stage of each of so many outputs."""
    for name in _STAGES:
        said = getattr(backbone, name, cfg.get(name))
        if isinstance(said, (list, tuple)) and len({*said}) == number:
            return tuple(sorted({*said}))
    if isinstance(backbone, TIMMBackbone):
        info = getattr(backbone.timm_model, 'feature_info', None)
        said = getattr(info, 'out_indices', ())
        if len(said) == number:
            return tuple(said)
    if number == 1 and num_stages:
        return (num_stages - 1, )
    return tuple(range(number))


def _class_of(backbone: dict) -> type:
    if not isinstance(backbone, dict) or 'type' not in backbone:
        raise ValueError(f'backbone={backbone!r} is not a dict with a "type".')
    cls = backbone['type']
    found = MODELS.get(cls) if isinstance(cls, str) else cls
    if found is None:
        raise ValueError(f'backbone: type={cls!r} does not exist in '
                         "mmpretrain's registry.")
    return found


def _options(cls: type) -> List[str]:
    return legal_options(cls, named=True) or []


def _default(cls: type, option: str) -> Any:
    """What an option of a class is, if it is not given."""
    for base in cls.__mro__:
        parameter = inspect.signature(base.__init__).parameters.get(option)
        if parameter and parameter.default is not inspect.Parameter.empty:
            return parameter.default
    return None


def _largest(indices: Any) -> int:
    return indices if isinstance(indices, int) else max(indices)


def _build_for_a_look(cfg: dict, cls: type) -> nn.Module:
    cfg = {key: value for key, value in cfg.items() if key != 'init_cfg'}
    if issubclass(cls, TIMMBackbone):
        cfg.update(pretrained=False, checkpoint_path='', out_indices=(0, ))
    with torch.random.fork_rng(devices=[]), quietly():
        try:
            with torch.device('meta'):
                return MODELS.build(dict(cfg))
        except Exception:  # some ask tensors for their values
            return build_backbone(cfg)


def build_backbone(cfg: dict) -> nn.Module:
    """Build a backbone.

    Args:
        cfg (dict): Its config.

    Raises:
        ValueError: If it cannot be built, whatever its class raises then.
    """
    try:
        return MODELS.build(dict(cfg))
    except Exception as error:
        raise ValueError(f'backbone: it cannot be built with {_shown(cfg)}: '
                         f'{one_line(error)}') from None


def _image_size(backbone: nn.Module, cfg: dict) -> Tuple[int, int]:
    """A size of images that it takes: its own, if it has one."""
    size = cfg.get('img_size', getattr(backbone, 'img_size', None))
    if size is None and isinstance(backbone, TIMMBackbone):
        known = getattr(backbone.timm_model, 'pretrained_cfg', None) or {}
        size = known.get('input_size', (3, 224, 224))[1:]
    if size is None:
        size = _default(type(backbone), 'img_size') or 224
    return (size, size) if isinstance(size, int) else tuple(size)


def _shown(cfg: dict) -> str:
    return ', '.join(f'{key}={value!r}' for key, value in cfg.items()
                     if key not in ('type', 'init_cfg')) or 'its defaults'
