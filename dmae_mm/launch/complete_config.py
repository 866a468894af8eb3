"""A config as tools/train.py trains it: completed, with all options in it."""
import difflib
import os.path as osp
import shlex
from typing import Any, Dict, List

from mmengine.config import Config
from mmengine.device import get_device

from dmae_mm.host import read_config
from dmae_mm.messages import first_few

from .described_teachers import describe_teachers
from .learning_rate import scale_learning_rate
from .sections import (DATALOADERS, READ_SECTIONS, entries, last_name,
                       read_sections)

# What people call options whose name in a config is another.
_OTHER_NAMES = dict(
    data='data_root', data_dir='data_root', data_path='data_root',
    images='data_root', learning_rate='lr', batch='batch_size',
    wd='weight_decay', workers='num_workers', size='img_size',
    image_size='img_size', iters='max_iters')


def complete_config(cfg: Config,
                    options: Dict[str, Any],
                    amp: bool = False,
                    auto_scale_lr: bool = False,
                    no_pin_memory: bool = False,
                    no_persistent_workers: bool = False) -> List[str]:
    """Write the options of the command line into a config.

    Fills in what mmpretrain's training script fills in, and what the folders
    of teachers say of these.

    Args:
        cfg (Config): Is changed.
        options (dict): Of ``--cfg-options``.
        amp (bool): As the option of ``tools/train.py``. So are the others.

    Returns:
        list[str]: What is wrong with the options and the sections.
    """
    loaders = [cfg[name] for name in DATALOADERS
               if isinstance(cfg.get(name), dict)]
    for loader in loaders:
        loader.setdefault('pin_memory', get_device() != 'cpu')
        loader.setdefault('persistent_workers', True)
        if no_pin_memory:
            loader['pin_memory'] = False
        if no_persistent_workers:
            loader['persistent_workers'] = False
        if cfg.get('default_scope', 'mmpretrain') == 'mmpretrain':
            # As mmpretrain's training script: self-supervised models are fed
            # wrongly without, and without an error. mmdet and mmseg take
            # lists of images.
            loader.setdefault('collate_fn', dict(type='default_collate'))
    problems = _unknown_options(cfg, options) + _copied_options(cfg, options)
    if problems:
        return problems
    try:
        cfg.merge_from_dict(options)
    except (TypeError, KeyError, IndexError) as error:
        return [f'--cfg-options: {error}']
    problems = _missing_sections(cfg)
    if problems:
        return problems
    for name in DATALOADERS:
        if cfg.get(name) is not None and not cfg[name].get('num_workers'):
            cfg[name].persistent_workers = False  # there are none to keep
    problems = describe_teachers(cfg)
    if problems:
        return problems
    if amp:
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')
    if auto_scale_lr or (cfg.get('auto_scale_lr') or {}).get('enable'):
        return scale_learning_rate(cfg)
    return []


def unknown_arguments(arguments: List[str], config: str) -> str:
    """What to say of arguments that the command line does not have.

    Args:
        arguments (list[str]): As they were given, '--lr', '1e-3' for example.
        config (str): The path of the config.

    Returns:
        str: With the options of the config that may be meant.
    """
    message = f'unrecognized arguments: {shlex.join(arguments)}'
    try:
        cfg = read_config(config)
    except (FileNotFoundError, ValueError):
        return message
    words, meant = list(arguments), []
    while words:
        word = words.pop(0)
        name, _, value = word.partition('=')
        if name.startswith('--'):
            if not value and words and not words[0].startswith('--'):
                value = words.pop(0)
        elif osp.isdir(word):
            name, value = 'data_root', word
        elif not value:
            continue
        options = _full_names(cfg, name.lstrip('-').replace('-', '_'))
        if options:
            meant.append(f'{options[0]}={shlex.quote(value or "VALUE")}')
    if meant:
        message += f'. Give --cfg-options {" ".join(meant)}'
    return message + _also_epochs(meant)


def _also_epochs(options: List[str]) -> str:
    """What shortens a recipe better than its `max_epochs` alone."""
    for option in options:
        name, _, value = option.partition('=')
        if name == 'train_cfg.max_epochs':
            return (f'. Instead of {option}, --epochs {value} changes the '
                    'schedule of the learning rate as well')
    return ''


def _full_names(cfg: Config, name: str) -> List[str]:
    """Options that may be meant by a part of their name.

    Args:
        cfg (Config): Where they are.
        name (str): Without its sections: 'lr' or 'optimizer.lr'.

    Returns:
        list[str]: Those of this name or, if there is none, of a similar one;
        the ones of the training, and with the fewest sections, first.
    """
    options = [option for option, _ in entries(read_sections(cfg))
               if '.' in option]
    section, dot, last = name.rpartition('.')
    last = _OTHER_NAMES.get(last, last)
    if not any(last_name(option) == last for option in options):
        similar = difflib.get_close_matches(
            last, {last_name(option) for option in options}, 1, 0.75)
        if not similar:
            return []
        last = similar[0]
    ending = f'.{section}{dot}{last}'
    return sorted(
        (option for option in options if f'.{option}'.endswith(ending)),
        key=lambda option: (not option.startswith(
            ('train_', 'optim_wrapper.', 'model.backbone.')),
                            option.count('.')))


def _unknown_options(cfg: Config, options: Dict[str, Any]) -> List[str]:
    """Options that nothing would read, such as mistyped ones."""
    problems = []
    known = {*cfg, *READ_SECTIONS}
    for option, value in options.items():
        section = option.split('.')[0]
        if section not in known:
            shown = '...' if isinstance(value, (list, tuple)) else value
            named = [f'{full}={shown}' for full in _full_names(cfg, option)]
            similar = difflib.get_close_matches(section, known, 1)
            hint = (
                f'. Give the full name: {first_few(named, 3)}'
                + _also_epochs(named) if named else
                f'; did you mean {similar[0]!r}?' if similar else
                f'. The config has: {", ".join(sorted(cfg))}')
            problems.append(f'--cfg-options {option}: there is no section '
                            f'{section!r}{hint}')
    return problems


def _copied_options(cfg: Config, options: Dict[str, Any]) -> List[str]:
    """Options of variables that only helped to write the config.

    When a config file is read, its sections get copies of such variables. A
    key that nobody copied may have a reader, a hook for example.
    """
    problems = []
    for option, value in options.items():
        name, dot, rest = option.partition('.')
        if name in READ_SECTIONS or name not in cfg:
            continue
        # Numbers and names are equal by accident, too: only options of the
        # variable's own name count then.
        by_value = cfg[name] and isinstance(cfg[name], (dict, list, tuple))
        copies = [
            copy for copy, item in entries(read_sections(cfg)) if '.' in copy
            and item == cfg[name] and (by_value or last_name(copy) == name)
        ]
        if copies:
            shown = '...' if isinstance(value, (list, tuple)) else value
            problems.append(
                f'--cfg-options {option}: nothing reads {name!r}, which was '
                'copied when the config was read. Change the copy: '
                + ' and '.join(f'{copy}{dot}{rest}={shown}'
                               for copy in copies))
    return problems


def _missing_sections(cfg: Config) -> List[str]:
    problems = []
    needed = ('model', 'train_dataloader', 'train_cfg', 'optim_wrapper')
    missing = [name for name in needed if cfg.get(name) is None]
    if missing:
        problems.append(f'it has no {", ".join(missing)}: it is not a config '
                        'to train with')
    for name in (*needed, *DATALOADERS[1:], 'default_hooks', 'randomness',
                 'env_cfg'):
        if cfg.get(name) is not None and not isinstance(cfg[name], dict):
            problems.append(f'{name}={cfg[name]!r} is not a dict')
    return problems
