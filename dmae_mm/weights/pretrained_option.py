"""What fills a backbone by config, and why a file cannot.

Shared by the hook that refuses a run and by ``tools/check_transfer.py``.
"""
from collections import Counter
from dataclasses import dataclass
from typing import Any, Iterator, List, Optional, Sequence, Tuple

import torch.nn as nn
from mmengine.config import Config
from mmengine.model import PretrainedInit

from dmae_mm.messages import first_few

from .download import local_path
from .misfits import num_blocks
from .names import layout_of, under_prefix
from .origin import Origin, backbone_said, origin_of
from .positions import other_meaning
from .tensor_file import TensorFile, Tensors, read_tensor_file
from .transfer import file_misfits, needed_shapes, other_windows

EXPORT = 'tools/model_converters/export.py'
CONVERT_MAE = 'tools/model_converters/mae_to_mmpretrain.py'
# Where `init_weights` reads the checkpoint and ignores the prefix.
_WITHOUT_PREFIX = [
    f'mmseg.models.backbones.{name}' for name in ('beit', 'mae', 'vit')
]
# Where it does, and wants (mmdet) or leaves out (mmseg) 'backbone.'.
_FINDS_PREFIX = [
    f'{package}.models.backbones.swin' for package in ('mmdet', 'mmseg')
]


@dataclass(frozen=True)
class PretrainedOption:
    """An option that fills the backbone of a model.

    Attributes:
        name (str): The option that names the file.
        checkpoint (str): The file.
        prefix (str): What the names of the backbone's tensors begin with in
            the file, as the host loads it.
        in_list (bool): Whether it stands in a list.
    """
    name: str
    checkpoint: str
    prefix: str
    in_list: bool = False

    def misfit(self, backbone: nn.Module, file: TensorFile) -> str:
        """Why a file cannot fill a built backbone, before it is loaded.

        Returns:
            str: The problems, as of :func:`file_misfits` and
            :func:`misunderstood`, their likely cause and the cure, in
            sentences; '' if the file fits.
        """
        prefix = self.prefix
        if _reader(backbone) == 'mmseg.models.backbones.swin' and not (
                under_prefix(file.tensors, prefix)):
            prefix = ''
        problems = file_misfits(backbone, file.tensors, prefix)
        if _converts(backbone) and not problems:
            return ("With convert_weights=True, mmdet's "
                    f"{type(backbone).__name__} takes the names of "
                    "Microsoft's files, and loads nothing of this one. Give "
                    'model.backbone.convert_weights=False.')
        if not problems:
            return misunderstood(backbone, under_prefix(file.tensors, prefix),
                                 origin_of(file.meta, file.tensors),
                                 file.source)
        return (f'Under the prefix {prefix!r}, '
                f'{first_few(problems, 5, "; ")}. '
                f'{_cause(backbone, file, prefix, self.name)}')


def misunderstood(backbone: nn.Module, weights: Tensors, origin: Origin,
                  source: str) -> str:
    """Why weights of the right names and shapes would mean something else.

    Args:
        backbone (nn.Module): The backbone, built.
        weights (dict[str, torch.Tensor]): The file's, without prefix.
        origin (Origin): What the file says.
        source (str): The file.

    Returns:
        str: The problems of :func:`other_meaning` and the cure, in
        sentences; '' if there are none.
    """
    problems = other_meaning(backbone, weights, origin)
    if not problems:
        return ''
    said = f'{"; ".join(problems)}. '.replace('pos_embed', 'Its pos_embed', 1)
    if said.startswith(origin.said_by):
        said = said[:1].upper() + said[1:]
    if 'positions' not in said:
        return said + ('Give the architecture of this checkpoint in '
                       'model.backbone.')
    to = 'mmseg' if ignores_prefix(backbone) else 'mmpretrain'
    size = getattr(backbone, 'img_size', None)
    height, width = size if isinstance(size, (list, tuple)) else (size, size)
    return said + (
        f'Resample them: python {EXPORT} MODEL {source} DST --to {to} '
        f'--img-size {height} {width}, with the config that it was trained '
        'with as MODEL, and give DST.')


def pretrained_options(model: nn.Module) -> List[PretrainedOption]:
    """What fills the backbone of a built model in ``init_weights()``.

    mmpretrain, mmdet and mmseg have turned an option ``pretrained`` into an
    ``init_cfg`` by then.
    """
    options = []
    for owner, name, cfg, in_list in _pretrained_inits(model):
        prefix = cfg.get('prefix') or ''
        if owner is not model and ignores_prefix(owner):
            prefix = ''
        if owner is not model and _reader(owner) in _FINDS_PREFIX:
            prefix = 'backbone'
        prefix = f'{prefix.rstrip(".")}.' if prefix else ''
        prefix += 'backbone.' * (owner is model)
        options.append(
            PretrainedOption(name, cfg['checkpoint'], prefix, in_list))
    return options


def name_checkpoint(cfg: Config, checkpoint: str) -> str:
    """Put a checkpoint where a config with a backbone has its own.

    Returns:
        str: The option.

    Raises:
        ValueError: If the config names two files, one after the other.
    """
    found = [(init, 'checkpoint', name)
             for _, name, init, _ in _pretrained_inits(cfg.model)]
    found += [(owner, 'pretrained', f'{path}.pretrained')
              for owner, path in ((cfg.model.backbone, 'model.backbone'),
                                  (cfg.model, 'model'))
              if owner.get('pretrained')]
    if not found:
        cfg.load_from = checkpoint
        return 'load_from'
    owner, key, name = found[0]
    if cfg.get('load_from'):
        raise ValueError(
            f'The config has {name} and load_from={cfg.load_from!r}, which '
            'is loaded last and replaces it. Leave out one of them: '
            '--cfg-options load_from=None')
    owner[key] = checkpoint
    return name


def _pretrained_inits(model: Any) -> Iterator[Tuple[Any, str, dict, bool]]:
    """The ``Pretrained`` among the ``init_cfg`` of a backbone and a model.

    Yields:
        tuple: Whose it is, the option that names its file, it, and whether
        it stands in a list; of a built model or of its config.
    """

    def part(owner: Any, name: str) -> Any:
        if isinstance(owner, dict):
            return owner.get(name)
        return getattr(owner, name, None)

    backbone = part(model, 'backbone')
    if backbone is None:
        return
    for owner, path in ((backbone, 'model.backbone'), (model, 'model')):
        cfgs = part(owner, 'init_cfg') or []
        for cfg in [cfgs] if isinstance(cfgs, dict) else cfgs:
            if cfg.get('type') in ('Pretrained', PretrainedInit):
                name = f'{path}.init_cfg.checkpoint'
                yield owner, name, cfg, cfgs is not cfg


def ignores_prefix(backbone: nn.Module) -> bool:
    """Whether a backbone of mmseg loads its file itself, without prefix."""
    return _reader(backbone) in _WITHOUT_PREFIX


def _reader(backbone: nn.Module) -> str:
    """The module of the class that initialises a backbone."""
    return next((cls.__module__ for cls in type(backbone).__mro__
                 if 'init_weights' in vars(cls)), '')


def _converts(backbone: nn.Module) -> bool:
    """Whether mmdet renames what it reads as if it were Microsoft's."""
    return (_reader(backbone) == 'mmdet.models.backbones.swin'
            and backbone.convert_weights)


def read_for_host(checkpoint: str) -> TensorFile:
    """Read a checkpoint safely that MMEngine is going to load.

    Raises:
        OSError: As of :func:`read_tensor_file`.
        ValueError: As there, and if MMEngine could not read the file or
            would look for weights elsewhere in it.
    """
    if str(checkpoint).lower().endswith('.safetensors'):
        raise ValueError(
            f'{checkpoint} is a .safetensors file, which MMEngine does not '
            f'read. {EXPORT} writes a .pth.')
    local_path(checkpoint)  # MMEngine reads no folder
    file = read_tensor_file(checkpoint)
    if file.weights_key not in (None, 'state_dict'):
        raise ValueError(
            f'{file.source} keeps its weights under {file.weights_key!r}, '
            "where MMEngine does not look. Save them under 'state_dict'; a "
            f"file of FAIR's MAE is converted by {CONVERT_MAE}.")
    return file


def _cause(backbone: nn.Module, file: TensorFile, own_prefix: str,
           option: str) -> str:
    """The likely cause of a misfit, and its cure."""
    names = needed_shapes(backbone, {}).keys()
    weights = under_prefix(file.tensors, own_prefix)
    begins = ', '.join(list(file.tensors)[:3])
    if 'layers.0.gamma_1' in file.tensors and not ignores_prefix(backbone):
        return ("It seems to have been exported for mmseg's MAE. Give the "
                'checkpoint that it was exported from.')
    fits, prefix = _best_prefix(names, file.tensors)
    windows = other_windows(backbone, weights)
    if windows:
        return (f'Give model.backbone.window_size={windows[0]}: the toolboxes '
                'load no windows of another size.')
    if prefix != own_prefix and fits > max(
            len(names & weights.keys()), len(names) / 2):
        cause = (f'Its names begin with {begins}: they fit under the prefix '
                 f'{prefix!r} ({fits} of {len(names)}).')
        if ignores_prefix(backbone):
            return (f"{cause} mmseg's {type(backbone).__name__} takes names "
                    'without prefix, whatever init_cfg says: '
                    f'python {EXPORT} MODEL {file.source} DST --to mmseg')
        if _reader(backbone) in _FINDS_PREFIX:
            return (f"{cause} {type(backbone).__name__} takes 'backbone.', "
                    'whatever init_cfg says. Give the checkpoint that a run '
                    'has left.')
        given = f', prefix={prefix!r}' if prefix else ''
        instead = f' and {option}=None' * option.endswith('.pretrained')
        return (f"{cause} Give model.backbone.init_cfg=dict("
                f"type='Pretrained', checkpoint=...{given}){instead}.")
    if layout_of(file.tensors) == 'timm/MAE' and hasattr(
            backbone, 'weights_of'):
        return (f'It begins with {begins}, which are names of timm. Give '
                "model.backbone.init_cfg=dict(type='Pretrained', "
                'checkpoint=...), which reads these.')
    if layout_of(file.tensors) == 'timm/MAE':
        return (f"It begins with {begins}, which are names of FAIR's MAE or "
                f'of timm. Convert it: python {CONVERT_MAE} {file.source} DST '
                f"for MAE's, python {EXPORT} MODEL {file.source} DST --to "
                'mmpretrain (or mmseg) for a model of timm.')
    if len(names & weights.keys()) <= len(names) / 2:
        return (f'It begins with {begins}, so it belongs to another kind of '
                f'model. {_give_its_options(file)}')
    given, own = _size(weights), _size(backbone.state_dict())
    if None not in (*given, *own) and given != own:
        cure = 'Give a checkpoint of this size'
        if given > own:
            cure = ("If it is the teacher's, give the student's, which "
                    'pre-training left in its work_dir')
        # Not model.backbone.arch alone: necks and heads have widths, too.
        return ('It holds {} blocks, {} wide; the backbone has {}, '
                '{} wide. '.format(*given, *own) +
                f"{cure}; or take a config of the file's size.")
    return _give_its_options(file)


def _give_its_options(file: TensorFile) -> str:
    """The cure where the architecture is another: what the file says of it."""
    options = [
        f'{name}={value!r}'
        for name, value in backbone_said(file.meta).items()
    ]
    if not options:
        return ('Give a checkpoint of this architecture, or the architecture '
                'of this checkpoint in model.backbone.')
    return ('Give a checkpoint of this architecture, or this one\'s in '
            f'model.backbone: {first_few(options, 8)}.')


def _best_prefix(names: Sequence[str], tensors: Tensors) -> Tuple[int, str]:
    """Under which prefix most names are found, and how many."""
    found = Counter()
    for name in tensors:
        parts = name.split('.')
        for start in range(len(parts)):
            if '.'.join(parts[start:]) in names:
                found[''.join(f'{part}.' for part in parts[:start])] += 1
    # The shortest of equals: a teacher's may be 'teacher.backbone.'.
    prefix = max(found, key=lambda p: (found[p], -len(p)), default='')
    return found[prefix], prefix


def _size(weights: Tensors) -> Tuple[Optional[int], Optional[int]]:
    """Blocks and width of a vision transformer."""
    positions = weights.get('pos_embed')
    return (num_blocks(weights) or None,
            None if positions is None else positions.shape[-1])
