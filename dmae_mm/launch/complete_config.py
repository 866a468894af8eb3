"""A config as tools/train.py trains it: completed, with all options in it."""
import difflib
from typing import Any, Dict, List

from mmengine.config import Config
from mmengine.device import get_device

from .sections import (DATALOADERS, READ_SECTIONS, entries, last_name,
                       read_sections)


def complete_config(cfg: Config,
                    options: Dict[str, Any],
                    amp: bool = False,
                    auto_scale_lr: bool = False,
                    no_pin_memory: bool = False,
                    no_persistent_workers: bool = False) -> List[str]:
    """Write the options of the command line into a config.

    Fills in what mmpretrain's training script fills in.

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
    accumulated = _accumulated(cfg)
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
    if amp:
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')
    if auto_scale_lr:
        if cfg.get('auto_scale_lr') is None:
            return ['--auto-scale-lr needs auto_scale_lr='
                    'dict(base_batch_size=...) in the config']
        cfg.auto_scale_lr.enable = True
    if 'auto_scale_lr.base_batch_size' not in options:
        _follow_accumulation(cfg, accumulated)
    return []


def _unknown_options(cfg: Config, options: Dict[str, Any]) -> List[str]:
    """Options that nothing would read, such as mistyped ones."""
    problems = []
    known = {*cfg, *READ_SECTIONS}
    for option in options:
        section = option.split('.')[0]
        if section not in known:
            similar = difflib.get_close_matches(section, known, 1)
            hint = f'; did you mean {similar[0]!r}?' if similar else (
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


def _accumulated(cfg: Config) -> Any:
    """How many batches make an optimizer step."""
    section = cfg.get('optim_wrapper')
    return section.get('accumulative_counts', 1) if isinstance(
        section, dict) else 1


def _follow_accumulation(cfg: Config, before: Any) -> None:
    """Keep the scaling of the learning rate right for other accumulation.

    MMEngine compares ``base_batch_size`` with the images of one iteration and
    leaves accumulation out, so the number holds for the config's own
    ``accumulative_counts`` only.
    """
    now, scaling = _accumulated(cfg), cfg.get('auto_scale_lr') or {}
    if now != before and 'base_batch_size' in scaling and all(
            type(count) is int and count > 0 for count in (now, before)):
        scaling['base_batch_size'] *= before / now
