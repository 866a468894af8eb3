"""The config section of a teacher from one string, as people type it."""
import difflib
import os.path as osp
import re
from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Tuple

import timm
import torch
from mmengine.logging import print_log
from mmpretrain import list_models
from mmpretrain.registry import MODELS

from dmae_mm.host import CHECKPOINTS, complete_model, read_named_config
from dmae_mm.messages import first_few
from dmae_mm.models.timm_vits import (create_model, pretrained_source,
                                      read_description)
from dmae_mm.weights import TensorFile, read_tensor_file
from dmae_mm.weights.formats import TranslatedFile, translate, what_it_is
from dmae_mm.weights.model_folder import INDEX
from dmae_mm.weights.names import layout_of
from dmae_mm.weights.origin import (KEY, OF_TRAINING, config_said,
                                    normalisation_of, origin_of,
                                    preprocessing_of_config)

from .mmpretrain_backbones import SUPPORTED
from .timm_matches import TimmMatch, matches

# Backbones around a model of timm.
_OF_TIMM = ('MaskedTimmViT', 'TimmViT', 'TIMMBackbone')
# What the hub of Hugging Face, from where names are copied, has in front.
_HUB = re.compile(r'(?:hf[-_]hub:|https://huggingface\.co/)?timm/')
_FORMS = ('NAME of timm (vit_base_patch14_dinov2.lvd142m), NAME=FILE, FILE, '
          'the FOLDER of a model of Hugging Face transformers, '
          'CONFIG=FILE with a config of mmpretrain, or a name of its model '
          'zoo')

Normalisation = Tuple[Tuple[float, ...], Tuple[float, ...]]  # mean and std


@dataclass(frozen=True)
class TeacherSection:
    """What a string says of a teacher.

    Attributes:
        section (dict): The section ``teacher`` of a config.
        note (str): What was assumed, in a sentence; '' for nothing.
    """
    section: Dict[str, Any]
    note: str = ''

    @classmethod
    def of(cls, spec: str) -> 'TeacherSection':
        """Understand what stands behind ``--teacher``.

        Args:
            spec (str): One of

                - ``NAME`` of a plain vision transformer of timm, with its
                  tag: the weights that timm names;
                - ``NAME=FILE``: the same with the weights of a file, folder
                  or http(s) URL;
                - ``FOLDER`` as Hugging Face transformers or timm write it;
                - ``CONFIG=FILE``: path of a config of mmpretrain or of this
                  package, or a name of mmpretrain's model zoo, and its
                  checkpoint; of the zoo, ``NAME`` alone is enough;
                - ``FILE`` (or URL) alone: what it says itself, as those of
                  this package do, or else the model of timm that has its
                  shapes, as long as there is no doubt.

        Returns:
            TeacherSection: The section, and what was assumed. Weights are
            read of a file alone only.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is none of these; names that are close are
                listed. Or if the model cannot teach, or a file alone may be
                of several.
        """
        name, checkpoint = split_spec(spec)
        if checkpoint is not None and not _is_there(checkpoint):
            raise FileNotFoundError(
                f'teacher {spec!r}: there is no file or folder '
                f'{checkpoint!r}. Correct the path behind the =.')
        if is_of_timm(name):
            return cls(_of_timm(name, checkpoint))
        if checkpoint is not None or name.endswith('.py') or (
                not _is_there(name)):
            return cls(_of_config(spec, name, checkpoint))
        if osp.isdir(name):
            read_description(name, knows_images=False)
            return cls(dict(type='TimmTeacher', checkpoint=name))
        return _of_file(name)


def teacher_section(spec: str) -> Dict[str, Any]:
    """The section ``teacher`` of a config, of one string.

    The log says what was assumed.

    Args:
        spec (str): See :meth:`TeacherSection.of`, also for the errors.

    Returns:
        dict: For example ``dict(type='TimmTeacher',
        model_name='vit_base_patch14_dinov2.lvd142m', pretrained=True)``.
    """
    found = TeacherSection.of(spec)
    if found.note:
        print_log(f'Teacher: {found.note}', logger='current')
    return found.section


def teacher_name(spec: str) -> str:
    """What to call a teacher in ``teachers=dict(...)`` and in tables.

    Args:
        spec (str): See :meth:`TeacherSection.of`. Nothing is read.

    Returns:
        str: An identifier: name of the model, or else of file or folder,
        without ending; of ``model.safetensors`` and the like, of its folder.
        Two teachers may have the same.
    """
    name, _ = split_spec(spec)
    if not is_of_timm(name):
        folder, name = osp.split(osp.normpath(name))
        stem, ending = osp.splitext(name)
        name = stem if ending in (*CHECKPOINTS, '.py') else name
        if stem in ('model', 'pytorch_model', 'checkpoint'):
            name = osp.basename(folder) or name
    name = re.sub(r'\W+', '_', name, flags=re.ASCII).strip('_')
    return name if name[:1].isalpha() else f'teacher_{name}'.rstrip('_')


def split_spec(spec: str) -> Tuple[str, Optional[str]]:
    """Name (or config, or file) and checkpoint of ``NAME=FILE``.

    Paths may have an = of their own: what exists is taken as it is, and the
    first = behind a name or config that there is separates.

    Args:
        spec (str): See :meth:`TeacherSection.of`.

    Returns:
        tuple[str, str | None]: None where there is no checkpoint.
    """
    hub = _HUB.match(spec)
    if hub and not osp.exists(spec):
        spec = spec[hub.end():]
    if '=' not in spec or _is_there(spec):
        return spec, None
    ends = [match.start() for match in re.finditer('=', spec)]
    for end in ends:
        if is_of_timm(spec[:end]) or osp.isfile(
                spec[:end]) or spec[:end] in list_models():
            return spec[:end], spec[end + 1:]
    name = spec[:ends[0]]
    if osp.dirname(name) and not name.endswith('.py'):
        return spec, None  # a path that is not there
    return name, spec[ends[0] + 1:]


def is_of_timm(name: str) -> bool:
    """Whether timm has the architecture, and it is not the path of a model.

    A folder of results may have such a name.
    """
    return (timm.is_model(name) and not name.endswith(CHECKPOINTS)
            and not osp.isfile(name)
            and not osp.isfile(osp.join(name, 'config.json')))


def _is_there(path: str) -> bool:
    """Whether there is a file or folder, or it is an address."""
    return path.startswith(('http://', 'https://')) or osp.exists(path)


def check_tag(name: str) -> None:
    """Refuse a name of timm whose tag does not exist.

    Raises:
        ValueError: Lists those that there are.
    """
    architecture, _, tag = name.partition('.')
    tags = timm.list_pretrained(f'{architecture}.*')
    if tag and name not in tags:
        raise ValueError(
            f'timm {timm.__version__} has no weights {tag!r} of '
            f'{architecture}. It has: {first_few(tags, 12) or "none"}.')


def _of_timm(name: str, checkpoint: Optional[str]) -> Dict[str, Any]:
    check_tag(name)
    with torch.device('meta'), torch.random.fork_rng(devices=[]):
        pretrained_cfg = create_model(name, {}).pretrained_cfg
    if checkpoint is not None:
        return dict(
            type='TimmTeacher', model_name=name, checkpoint=checkpoint)
    pretrained_source(name, pretrained_cfg)
    return dict(type='TimmTeacher', model_name=name, pretrained=True)


def _of_config(spec: str, name: str,
               checkpoint: Optional[str]) -> Dict[str, Any]:
    try:
        cfg, weights = read_named_config(name)
    except (FileNotFoundError, ValueError) as error:
        if name.endswith('.py') and osp.isfile(name):
            raise
        raise _unknown(spec, name, error) from None
    checkpoint = weights if checkpoint is None else checkpoint
    if checkpoint is None:
        raise ValueError(
            f'teacher {spec!r} is a config whose weights are not known. Give '
            f'its checkpoint as well: {name}=FILE.')
    complete_model(cfg, name)
    model = cfg.model.to_dict()
    backbone = {
        option: value
        for option, value in model['backbone'].items()
        if not option.startswith(OF_TRAINING)
    }
    channels = backbone.get('in_channels', 3)
    images = preprocessing_of_config(model, channels)
    said = {}
    if images['mean'] is not None:
        said = dict(mean=list(images['mean']), std=list(images['std']))
        if images['to_rgb'] is False and channels == 3:
            said['channels'] = [2, 1, 0]  # of a student that sees RGB
    return dict(_of_backbone(backbone, checkpoint, name), **said)


def _unknown(spec: str, name: str, error: Exception) -> Exception:
    """The error of a name that is nowhere."""
    if name.endswith((*CHECKPOINTS, INDEX, '.py')) or osp.isabs(
            name) or name.startswith(('.', '~')):
        path = name if name.endswith('.py') else spec
        return FileNotFoundError(f'teacher: there is no file {path!r}.')
    if osp.dirname(name):
        return FileNotFoundError(
            f'teacher: there is no folder or file {name!r}. If it is a model '
            f'on the Hugging Face hub: hf download {name} --local-dir FOLDER, '
            'and give FOLDER.')
    ours = timm.list_models(pretrained=True) + timm.list_models()
    close = difflib.get_close_matches(name, ours, 5, cutoff=.7)
    zoo = difflib.get_close_matches(name, list_models(), 3)
    return ValueError(
        f'teacher {spec!r}: {name!r} is neither a model of timm '
        f'{timm.__version__} nor a config, nor a name of '
        f"mmpretrain's model zoo, nor a file. Close to it are, of timm: "
        f'{", ".join(close) or "none"}; of mmpretrain: '
        f'{", ".join(zoo) or "none"}. Give {_FORMS}.')


def _of_backbone(backbone: Dict[str, Any], checkpoint: str,
                 source: str) -> Dict[str, Any]:
    """Section of a teacher with the backbone of a config."""
    kind = backbone.get('type')
    cls = MODELS.get(kind) if isinstance(kind, str) else kind
    name = getattr(cls, '__name__', str(kind))
    if name in _OF_TIMM:
        kwargs = dict(backbone.get('model_kwargs', {}))
        if name == 'TIMMBackbone':
            kwargs.update({
                option: value
                for option, value in backbone.items() if option not in (
                    'type', 'model_name', 'features_only', 'pretrained',
                    'checkpoint_path', 'in_channels', 'norm_eval')
            })
        for option, of_timm in (('img_size', 'img_size'),
                                ('in_channels', 'in_chans')):
            if backbone.get(option) is not None:
                kwargs[of_timm] = backbone[option]
        with torch.device('meta'), torch.random.fork_rng(devices=[]):
            create_model(backbone['model_name'], kwargs)
        section = dict(
            type='TimmTeacher',
            model_name=backbone['model_name'],
            model_kwargs=kwargs,
            checkpoint=checkpoint)
        return section if kwargs else {
            option: section[option]
            for option in section if option != 'model_kwargs'
        }
    if cls not in SUPPORTED:
        raise ValueError(
            f'teacher: {source} has type={kind!r} as backbone, which cannot '
            'teach features of visible patches. Choose a model whose backbone '
            f'is one of {[known.__name__ for known in SUPPORTED]}.')
    return dict(
        type='MMPretrainTeacher',
        backbone=dict(backbone, type=name),
        checkpoint=checkpoint)


def _of_file(path: str) -> TeacherSection:
    """Section of a file without a name."""
    file = read_tensor_file(path)
    backbone = _backbone_of(file)
    if backbone is not None:
        section = _of_backbone(backbone, path, f'the config in {path}')
        return TeacherSection(
            section, f'{path} says itself that it is of a '
            f'{backbone["type"]} ({first_few(_as_text(backbone), 4)}).')
    translated = translate(file)
    if isinstance(translated, TranslatedFile):
        if osp.isfile(path) and osp.isfile(
                osp.join(osp.dirname(path), 'config.json')):
            read_description(path, knows_images=False)
            return TeacherSection(dict(type='TimmTeacher', checkpoint=path))
        found = translated.format
        if found.model_name is not None:
            section = _timm_section(found.model_name, found.model_kwargs,
                                    path)
            return TeacherSection(
                section, f'by its names and sizes, {path} is {found.name}: '
                f'taken for {found.model_name} of timm.')
    fitting = matches(translated)
    if not fitting:
        raise ValueError(
            f'teacher: {path} does not say of which model it is, and no plain '
            f'vision transformer of timm has its shapes. '
            f'{_its_kind(translated)}Give it with its model: NAME={path} for '
            f'a NAME of timm, CONFIG={path} for a config of mmpretrain.')
    return _choose(path, translated, fitting)


def _backbone_of(file: TensorFile) -> Optional[Dict[str, Any]]:
    """The backbone that a checkpoint of a run, or a file exported from one,
    says it is of; None if it does not."""
    backbone = config_said(file.meta).get('model', {}).get('backbone')
    if backbone is None or 'type' not in backbone:
        return None
    backbone = {
        option: value
        for option, value in backbone.items()
        if not option.startswith(OF_TRAINING)
    }
    backbone['type'] = backbone['type'].removeprefix('mmpretrain.')
    size = origin_of(file.meta, file.tensors).img_size
    if size is not None and KEY in file.meta:  # exported, perhaps resampled
        backbone['img_size'] = size[0] if size[0] == size[1] else list(size)
    return backbone


def _as_text(backbone: Dict[str, Any]) -> List[str]:
    return [f'{k}={v!r}' for k, v in backbone.items() if k != 'type']


def _its_kind(file: TensorFile) -> str:
    kind = what_it_is(file.tensors)
    return '' if kind is None else f'By its names, it is {kind}. '


def _timm_section(name: str, kwargs: Dict[str, Any],
                  path: str) -> Dict[str, Any]:
    given = dict(model_kwargs=dict(kwargs)) if kwargs else {}
    return dict(
        type='TimmTeacher', model_name=name, **given, checkpoint=path)


def _choose(path: str, file: TensorFile,
            fitting: List[TimmMatch]) -> TeacherSection:
    """The one architecture that a file is of, or an error that lists all."""
    said = normalisation_of(file).mean is not None
    if not said and layout_of(file.tensors) in ('mmpretrain',
                                                'mmpretrain backbone'):
        stem = osp.basename(path)
        close = difflib.get_close_matches(stem, list_models(), 3)
        raise ValueError(
            f"teacher: {path} has mmpretrain's names and does not say how its "
            'images were normalised. Give the config that it was trained '
            f'with, or its name in the model zoo: CONFIG={path}. Close to '
            f'the name of the file are: {", ".join(close) or "none"}.')
    # Each different teacher that it may be, and all of its names.
    kinds: List[Tuple[TimmMatch, Optional[Normalisation], List[str]]] = []
    for match in fitting:
        for name, images in _weights_of(match.name):
            images = None if said else images
            for known, other, names in kinds:
                if images == other and match.computes_as(known):
                    names.append(name)
                    break
            else:
                kinds.append((match, images, [name]))
    parts = _names_in(path)
    named = [(match, [name]) for match, _, names in kinds for name in names
             if name in parts]
    if len(named) == 1 or len(kinds) == 1:
        match, names = named[0] if len(named) == 1 else kinds[0][::2]
        how = ('the path names it' if len(named) == 1 else
               'all that have them compute the same')
        return TeacherSection(
            _timm_section(match.name if said else names[0],
                          match.model_kwargs, path),
            f'{path} does not say of which model it is. Taken for {names[0]} '
            f'of timm, whose shapes it has ({how}).')
    lines = [
        f'  {names[0]}={path}{_described(images, names[1:])}'
        for _, images, names in kinds
    ]
    raise ValueError(
        f'teacher: {path} does not say of which model it is, and fits several '
        'of timm that differ in what they compute or in how their images are '
        'normalised. Give one of\n' + '\n'.join(lines))


def _weights_of(architecture: str) -> List[Tuple[str, Normalisation]]:
    """timm's names of all weights of an architecture, and how their images
    are normalised; the architecture's own name where there are none."""
    names = timm.list_pretrained(f'{architecture}.*') or [architecture]
    cfgs = [(name, timm.get_pretrained_cfg(name)) for name in names]
    return [(name, (tuple(cfg.mean), tuple(cfg.std))) for name, cfg in cfgs]


def _names_in(path: str) -> List[str]:
    """What the path of a file may name: the file, or a folder, as in the
    cache of the Hugging Face hub."""
    folder, name = osp.split(osp.abspath(path))
    return [osp.splitext(name)[0]] + [
        part.removeprefix('models--timm--') for part in folder.split(osp.sep)
    ]


def _described(images: Optional[Normalisation], others: List[str]) -> str:
    """What is special about a kind, behind its line."""
    said = [] if images is None else ['mean={}, std={}'.format(*images)]
    if others:
        said.append(f'as {first_few(others, 3)}')
    return f'  ({"; ".join(said)})' if said else ''
