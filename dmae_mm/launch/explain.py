"""Which option of a config is behind an error from deep inside a package."""
import re
import traceback
from types import FrameType
from typing import Any, Dict, Iterator, List, Optional, Tuple

import torch.nn as nn
from mmengine.config import Config
from torch.utils.data.dataloader import _BaseDataLoaderIter

from .complete_config import READ_SECTIONS

# Functions of MMEngine's Runner, and the section of the config they read.
_SECTIONS = dict(
    build_train_loop='train_cfg',
    build_val_loop='val_cfg',
    build_test_loop='test_cfg',
    build_optim_wrapper='optim_wrapper',
    build_param_scheduler='param_scheduler',
    _check_scheduler_cfg='param_scheduler',
    build_model='model',
    _init_model_weights='model',
    scale_lr='auto_scale_lr',
    register_hooks='default_hooks and custom_hooks',
    register_default_hooks='default_hooks',
    register_custom_hooks='custom_hooks',
    build_evaluator='val_evaluator and test_evaluator',
    build_visualizer='visualizer',
    build_log_processor='log_processor',
    build_logger='log_level',
    set_randomness='randomness',
    setup_env='env_cfg',
    wrap_model='model_wrapper_cfg',
    load_or_resume='load_from and resume',
    _maybe_compile='compile')
# What registries call their argument, and where a data loader is built.
_BUILDERS = ('build_from_cfg', 'build_scheduler_from_cfg')
_SHOWN = 240  # characters of a value
_UNKNOWN_TYPE = re.compile(r'is not in the .*registry')


def explain(error: BaseException, cfg: Config) -> str:
    """Say which part of a config an error comes from.

    The calls that led to the error are searched for the config dict that was
    being built, for the module of the model that was running, and for the
    part of the runner that was at work. Nothing is built again.

    Args:
        error (BaseException): As it was caught.
        cfg (Config): Of the run.

    Returns:
        str: A few lines: the option, the error, the values beside it.
    """
    message = ' '.join(str(error).split()) or type(error).__name__
    option, section = _origin(error, cfg)
    said = f'{type(error).__name__}: {message}'
    if option is None:
        return said
    if _UNKNOWN_TYPE.search(message):
        scope = cfg.get('default_scope', 'mmengine')
        return f'{option}.type: {said}\n    with default_scope = {scope!r}'
    kind = section.get('type') if isinstance(section, dict) else None
    kind = getattr(kind, '__name__', kind)
    lines = [f'{option}{f" ({kind})" if kind else ""}: {said}']
    if isinstance(section, dict):
        named = _named(section, message)
        lines += [f'    {option}.{key} = {_shown(value)}'
                  for key, value in named.items()]
        others = [f'{key}={_shown(value)}' for key, value in section.items()
                  if key != 'type']
        if others and not named:
            lines.append('    its options: ' + ', '.join(others))
    return '\n'.join(lines)


def _named(section: dict, message: str) -> Dict[str, Any]:
    """The options of a section that a message names, those inside as well."""
    named = {}
    for key, value in section.items():
        names = 'backbone|student' if key == 'backbone' else re.escape(
            str(key))
        if key == 'type' or not re.search(rf'\b({names})\b', message):
            continue
        inner = _named(value, message) if isinstance(value, dict) else {}
        # A default that is not in the config: "neck: num_patches is 196".
        default = re.match(rf'{re.escape(str(key))}: (\w+) is (\d+)', message)
        if default and isinstance(value, dict):
            inner.setdefault(default[1], int(default[2]))
        if inner:
            named.update((f'{key}.{name}', item)
                         for name, item in inner.items())
        else:
            named[str(key)] = value
    return named


def _shown(value: Any) -> str:
    text = _text(value)
    return text if len(text) <= _SHOWN else f'{text[:_SHOWN]}...'


def _text(value: Any) -> str:
    """As in a config file."""
    if isinstance(value, dict):
        # The type comes first: the rest may be cut off.
        items = sorted(value.items(), key=lambda item: item[0] != 'type')
        return f'dict({", ".join(f"{k}={_text(v)}" for k, v in items)})'
    if isinstance(value, list) and any(isinstance(v, dict) for v in value):
        return '[...]'  # pipelines, init_cfg
    return repr(value)


def _origin(error: BaseException,
            cfg: Config) -> Tuple[Optional[str], Optional[dict]]:
    """Option and dict that an error comes from, as exactly as is known."""
    frames = _frames(error)
    section = None
    for name, _ in frames:
        section = section or _SECTIONS.get(name)
    # Variables of the config that sections have copies of come last.
    known = dict(_dicts(dict(sorted(
        cfg.items(), key=lambda item: item[0] not in READ_SECTIONS))))
    for name, frame in reversed(frames):
        if name in _BUILDERS:
            found = _find(frame.f_locals.get('cfg'), known)
            if found:
                return found, known[found]
        elif name == 'build_dataloader':
            section = _dataloader_of(frames)
            return section, known.get(section)
        owner = frame.f_locals.get('self')
        if isinstance(owner, _BaseDataLoaderIter):  # what is collated
            section = _dataloader_of(frames)
            return section, known.get(section)
        found = _module(owner, frames, cfg) or _instance(owner, known)
        if found:
            return found, known.get(found)
    return section, known.get(section)


def _frames(error: BaseException) -> List[Tuple[str, FrameType]]:
    """Of the error and of those that it was raised from, outermost first."""
    frames = [(frame.f_code.co_name, frame)
              for frame, _ in traceback.walk_tb(error.__traceback__)]
    cause = error.__cause__ or error.__context__
    return frames + _frames(cause) if cause is not None else frames


def _dataloader_of(frames: List[Tuple[str, FrameType]]) -> str:
    names = [name for name, _ in frames]
    for part in ('val', 'test'):
        if f'build_{part}_loop' in names or f'{part}_dataloader' in names:
            return f'{part}_dataloader'
    return 'train_dataloader'


def _dicts(value: Any, option: str = '') -> Iterator[Tuple[str, dict]]:
    """All dicts in a config and their options, those inside come later."""
    if isinstance(value, (dict, Config)):
        if option:
            yield option, value
        items = list(value.items())
    elif isinstance(value, (list, tuple)):
        items = list(enumerate(value))
    else:
        return
    for key, item in items:
        yield from _dicts(item, f'{option}.{key}' if option else str(key))


def _find(built: Any, known: Dict[str, dict]) -> Optional[str]:
    """The option of a dict that was built, if it is in the config.

    Its builder may have taken some keys out or put others in, so that the one
    of the same type with the most equal items is taken.
    """
    if not isinstance(built, dict) or 'type' not in built:
        return None
    best, most = None, 0
    for option, section in known.items():
        if section.get('type') != built['type']:
            continue
        score = 1 + sum(
            key in section and _same(section[key], value)
            for key, value in built.items())
        if score > most:
            best, most = option, score
    return best


def _same(one: Any, other: Any) -> bool:
    try:
        return bool(one == other)
    except Exception:  # tensors and arrays
        return False


def _module(owner: Any, frames: List[Tuple[str, FrameType]],
            cfg: Config) -> Optional[str]:
    """The section of a module of the model, e.g. model.head.loss."""
    if not isinstance(owner, nn.Module):
        return None
    for _, frame in frames:
        root = frame.f_locals.get('self')
        if not isinstance(root, nn.Module) or not hasattr(root, 'train_step'):
            continue
        try:
            names = {module: name for name, module in root.named_modules()}
            teacher = getattr(root, 'teacher', None)
            if isinstance(teacher, nn.Module):  # not among the modules
                names.update((module, name) for name, module in
                             teacher.named_modules(prefix='teacher'))
        except AttributeError:  # it is being built
            continue
        if owner not in names:
            continue
        option, section = 'model', cfg.model
        for part in names[owner].split('.'):
            inner = section.get(part) if isinstance(section, dict) else None
            if not isinstance(inner, dict):
                break
            option, section = f'{option}.{part}', inner
        return option
    return None


def _instance(owner: Any, known: Dict[str, dict]) -> Optional[str]:
    """The section that a running transform, hook or schedule is built from."""
    kind = type(owner).__name__
    for option, section in known.items():
        if section.get('type') == kind and not option.startswith('model'):
            return option
    return None
