"""Did a checkpoint arrive in a backbone? Said of each tensor."""
import math
import re
from collections import Counter
from dataclasses import dataclass
from typing import Dict, List, Optional, Sequence, Tuple

import torch
import torch.nn as nn

from .misfits import misfits
from .names import COMPUTED, TIMM_MODEL, under_prefix
from .origin import Origin
from .positions import PositionGrids, resampled_table
from .tensor_file import Tensors

# Of these, the hosts resample all but the last dimension.
_RESAMPLED = ('pos_embed', 'relative_position_bias_table')
# No pre-training has these: tables of relative positions, and layer scale.
_TABLE = re.compile(r'.*\.(relative_position_bias_table|rel_pos_[hw])')
_SCALE = re.compile(r'.*\.(gamma_?[12])(\.weight)?')
# Nor does all have the norms behind the stages that a backbone puts out.
_STAGE_NORM = re.compile(r'norm\d+\.(weight|bias)')
# What many backbones lack by design: CLS, a norm behind all blocks, a norm
# behind average pooling or a stage, values that are computed.
_DROPPED = re.compile(r'cls_token|ln[12]\.(weight|bias)|' +
                      f'{_STAGE_NORM.pattern}|{COMPUTED.pattern}')
# mmdet and mmseg do not build what is behind the last stage that they take.
_BEHIND_STAGES = dict(
    EfficientNet=r'layers\.\d+\..+', MobileNetV2=r'conv2\..+')
# What only pre-training or another task has; at the front of a name.
_BESIDE = re.compile(
    r'(backbone|neck|head|distill_\w+|data_preprocessor|mask_token|teacher|'
    r'target_generator|decode_head|auxiliary_head|roi_head|rpn_head|'
    r'bbox_head|mask_head|decoder_\w+)(\.|$)')

# What becomes of a backbone's tensor.
LOADED = 'loaded'
RESIZED = 'resized'
LEFT = 'left at initialisation'
CHANGED = 'other values than in the checkpoint'
NOT_FINITE = 'not finite in the checkpoint'
SCRAMBLED = 'scrambled: at the places of another grid of patches'
# Of these, the checkpoint's values did not arrive.
MISSED = (LEFT, CHANGED, NOT_FINITE, SCRAMBLED)
NEW = 'new: not in this pre-training'
COMPUTED_ONLY = 'computed, not learnt'
# What a file's tensor is that the backbone does not have: see Transfer.
LOST, DROPPED, BESIDE = 'lost', 'dropped', 'beside'

# What the backbone's and the unused tensors may take of the screen.
MAX_LINES, MAX_UNUSED = 20, 6


@dataclass(frozen=True)
class Row:
    """A tensor of the backbone and what became of it."""
    name: str
    status: str  # LOADED, RESIZED, LEFT and so on
    shape: Tuple[int, ...]
    shape_in_file: Optional[Tuple[int, ...]] = None  # None: it is not there

    @property
    def shapes(self) -> str:
        """Its shape, and that in the file where it is another."""
        if self.shape_in_file in (None, self.shape):
            return str(self.shape)
        return f'{self.shape}, in the checkpoint {self.shape_in_file}'


@dataclass(frozen=True)
class Transfer:
    """What of a checkpoint is in a backbone, and what is not.

    Attributes:
        prefix (str): In front of the backbone's names in the file.
        rows (list[Row]): The backbone's tensors.
        lost (dict[str, tuple]): Names and shapes of tensors of the file's
            backbone that this one lacks, though they matter.
        dropped (dict[str, tuple]): The same of those that it lacks by design.
        beside (dict[str, tuple]): Names and shapes of the file's tensors for
            other parts of a model, and of its backbone for pre-training.
    """
    prefix: str
    rows: List[Row]
    lost: Dict[str, Tuple[int, ...]]
    dropped: Dict[str, Tuple[int, ...]]
    beside: Dict[str, Tuple[int, ...]]

    def names(self, *status: str) -> List[str]:
        """The backbone's tensors of which this became."""
        return [row.name for row in self.rows if row.status in status]

    @property
    def arrived(self) -> bool:
        """Whether all that has to be loaded was, and nothing was lost."""
        return not (self.names(*MISSED) or self.lost)

    def lines(self, ignored: Sequence[str], verbose: bool) -> List[str]:
        """A table of what became of the backbone's tensors and the file's.

        Args:
            ignored (Sequence[str]): What is in the file beside its tensors.
            verbose (bool): Whether each tensor has a line of its own, or
                equals of several blocks one together.
        """
        lines = []
        for status in (LOADED, RESIZED, *MISSED, NEW, COMPUTED_ONLY):
            rows = [row for row in self.rows if row.status == status]
            if rows or status in (LOADED, RESIZED, LEFT):
                lines.append(f'{status}: {len(rows)}')
                lines += _grouped({row.name: row.shapes for row in rows},
                                  verbose, MAX_LINES)
        unused = {
            name: f'{shape}, {what}'
            for shapes, what in ((self.lost, 'which this backbone lacks'),
                                 (self.dropped, 'not needed here'))
            for name, shape in shapes.items()
        }
        lines.append(f'unused in the checkpoint: {len(unused)}')
        lines += _grouped(unused, verbose, MAX_UNUSED)
        beside = Counter(re.sub(r'\..*', '.*', name) for name in self.beside)
        others = [f'{part} ({number})' for part, number in beside.items()]
        others += [name for name in ignored if name != 'meta']
        lines.append(f'not for a backbone: {", ".join(others) or "nothing"}')
        return lines


def needed_shapes(backbone: nn.Module,
                  weights: Tensors) -> Dict[str, Tuple[int, ...]]:
    """Names and shapes of what a checkpoint must hold for a built backbone.

    Without what is new or computed. Of positions, the number that the file
    has in ``weights``, tensors without prefix, is as good.
    """
    needed = {}
    for name, tensor in backbone.state_dict().items():
        given, shape = weights.get(name), tuple(tensor.shape)
        without = _without_file(name, tensor)
        if without == COMPUTED_ONLY or (given is None and without == NEW):
            continue
        if (name.endswith(_RESAMPLED) and given is not None
                and not name.startswith(TIMM_MODEL)  # TIMMBackbone does not
                and given.shape[-1:] == shape[-1:]):
            shape = tuple(given.shape)
        needed[name] = shape
    return needed


def file_misfits(backbone: nn.Module, tensors: Tensors,
                 prefix: str) -> List[str]:
    """What keeps a checkpoint from being a backbone's, before it is loaded.

    The problems are those of :func:`misfits`, and tensors of the file's
    backbone, under ``prefix``, that would be lost.
    """
    own = backbone.state_dict()
    weights = {
        name: tensor
        for name, tensor in under_prefix(tensors, prefix).items()
        if name in own or _use(backbone, name) != DROPPED
    }
    problems = misfits(weights, needed_shapes(backbone, weights), own.keys(),
                       torch.float32)
    windows = other_windows(backbone, weights)
    if windows:
        problems.append('it is for windows of {0} x {0} instead of {1} x {1}'
                        .format(*windows))
    return problems + [
        f'{name} has no place in it' for name in weights
        if name not in own and _use(backbone, name) == LOST
    ]


def other_windows(backbone: nn.Module,
                  weights: Tensors) -> Optional[Tuple[int, int]]:
    """The sides of the windows of a Swin, in a file and in the backbone.

    The toolboxes resample its table of relative positions, and then stop at
    the index into it, which they load as it is.

    Args:
        backbone (nn.Module): The backbone, built.
        weights (dict[str, torch.Tensor]): The file's, without prefix.

    Returns:
        tuple[int, int] | None: None if they are equal, or it is no Swin.
    """
    for name in backbone.state_dict():
        index = name.replace('bias_table', 'index')
        if name.endswith('w_msa.relative_position_bias_table') and (
                index in weights):
            # (window ** 2, window ** 2)
            sides = tuple(
                math.isqrt(math.isqrt(tensor.numel()))
                for tensor in (weights[index], backbone.get_buffer(index)))
            return None if sides[0] == sides[1] else sides
    return None


def compare(backbone: nn.Module,
            tensors: Tensors,
            prefix: str,
            origin: Origin = Origin()) -> Transfer:
    """Find out what of a checkpoint is in a backbone that has loaded it.

    A tensor counts as loaded if the file has it and the backbone has its
    values. Where nothing but constants (zeros of a bias, ones of a norm) and
    computed values agrees, nothing was loaded: any initialisation has those.

    Args:
        backbone (nn.Module): The backbone, after loading.
        tensors (dict[str, torch.Tensor]): All tensors of the file.
        prefix (str): What the config says the backbone's names begin with.
            Some backbones of mmdet and mmseg find 'backbone.' for
            themselves, so where nothing agrees, that and '' are tried.
        origin (Origin): What the file says of its grid of patches. Defaults
            to nothing: a square.

    Returns:
        Transfer: What became of each tensor.
    """
    own = backbone.state_dict()
    found = next((candidate for candidate in (prefix, '', 'backbone.')
                  if _agrees(under_prefix(tensors, candidate), own)), None)
    prefix = prefix if found is None else found
    weights = under_prefix(tensors, prefix)
    rows = []
    for name, tensor in own.items():
        given = weights.get(name)
        if given is None:
            status = _without_file(name, tensor)
        else:
            status = LEFT if found is None else _with_file(
                backbone, name, weights, tensor, origin)
        rows.append(
            Row(name, status, tuple(tensor.shape),
                None if given is None else tuple(given.shape)))
    unused = {LOST: {}, DROPPED: {}, BESIDE: {}}
    for name, tensor in tensors.items():
        rest = name[len(prefix):]
        if not name.startswith(prefix):
            unused[BESIDE][name] = tuple(tensor.shape)
        elif rest not in own:
            use = _use(backbone, rest)
            unused[use][rest] = tuple(tensor.shape)
    return Transfer(prefix, rows, **unused)


def _use(backbone: nn.Module, name: str) -> str:
    """What a tensor of a file is that the backbone does not have."""
    if _BESIDE.match(name):
        return BESIDE
    behind = _BEHIND_STAGES.get(type(backbone).__name__, '')
    return DROPPED if (_DROPPED.fullmatch(name)
                       or re.fullmatch(behind, name)) else LOST


def _agrees(weights: Tensors, own: Tensors) -> bool:
    return any(
        name in own and _same(tensor, own[name])
        and bool((tensor != tensor.flatten()[0]).any())
        for name, tensor in weights.items()
        if tensor.numel() and not COMPUTED.fullmatch(name))


def _without_file(name: str, tensor: torch.Tensor) -> str:
    """What a backbone's tensor is that a file does not have."""
    if not tensor.is_floating_point() or COMPUTED.fullmatch(name):
        return COMPUTED_ONLY
    if (name.startswith('ln2.')  # the norm behind average pooling
            or (_STAGE_NORM.fullmatch(name)
                and bool((tensor == name.endswith('weight')).all()))
            or (_TABLE.fullmatch(name) and not tensor.any())
            or (_SCALE.fullmatch(name) and bool((tensor == 1).all()))):
        return NEW  # and tables and scales start as if there were none
    return LEFT


def _with_file(backbone: nn.Module, name: str, weights: Tensors,
               tensor: torch.Tensor, origin: Origin) -> str:
    given = weights[name]
    if not given.isfinite().all():
        return NOT_FINITE
    grids = PositionGrids.of(backbone, name, weights, origin)
    if grids is not None and grids.differ:
        if _close(grids.resampled(given, tensor.shape), tensor):
            return RESIZED
        return SCRAMBLED if _close(
            grids.as_host_does(given, tensor.shape), tensor) else LEFT
    if _same(given, tensor):
        return LOADED
    if name.endswith(_RESAMPLED) and given.shape != tensor.shape:
        expected = resampled_table(
            given, tensor.shape) if grids is None else grids.resampled(
                given, tensor.shape)
        # If it is another, it was loaded otherwise, or not at all: nobody
        # can tell.
        return RESIZED if _close(expected, tensor) else LEFT
    if not tensor.is_floating_point() or COMPUTED.fullmatch(name):
        return COMPUTED_ONLY
    return CHANGED if given.shape == tensor.shape else LEFT


def _grouped(shapes: Dict[str, str], verbose: bool,
             max_lines: int) -> List[str]:
    """Lines of names and shapes, equal ones of several blocks in one."""
    groups: Dict[Tuple, List[int]] = {}
    for name, shape in shapes.items():
        block = not verbose and re.match(r'(.*?\.)(\d+)(\..+)', name)
        key = (block[1], block[3], shape) if block else (name, '', shape)
        groups.setdefault(key, []).extend([int(block[2])] if block else [])
    lines = []
    for (start, rest, shape), blocks in groups.items():
        indices = ','.join(map(str, blocks))
        if len(blocks) > 1 and blocks[-1] - blocks[0] == len(blocks) - 1:
            indices = f'{blocks[0]}-{blocks[-1]}'
        lines.append(f'  {start + indices + rest:40s} {shape}')
    if not verbose and len(lines) > max_lines:
        lines[max_lines:] = ['  ... (all of them with --verbose)']
    return lines


def _same(given: torch.Tensor, tensor: torch.Tensor) -> bool:
    return given.shape == tensor.shape and torch.equal(
        given.to(tensor), tensor)


def _close(expected: Optional[torch.Tensor], tensor: torch.Tensor) -> bool:
    return expected is not None and torch.allclose(
        expected.to(tensor), tensor, rtol=1e-5, atol=1e-6)
