"""A config as tools/train.py trains it: completed, with all options in it."""
import difflib
import inspect
from typing import Any, Dict, Iterator, List, Tuple

from mmengine.config import Config
from mmengine.device import get_device
from mmengine.runner import Runner

DATALOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')
# Sections that are read: the arguments of MMEngine's Runner, and more that it
# reads or, as the last one, the reading of a config file.
READ_SECTIONS = {
    *inspect.signature(Runner.__init__).parameters, 'activation_checkpointing',
    'compile', 'efficient_conv_bn_eval', 'find_unused_parameters',
    'model_wrapper_cfg', 'runner_type', 'strategy', 'sync_bn',
    'custom_imports'
}


class LaunchError(ValueError):
    """What keeps a run from being started, for the person who started it."""


def readable_options(options: Dict[str, Any]) -> None:
    """Refuse what looks like a dict on the command line.

    MMEngine would read it as text, or recurse without end.

    Raises:
        LaunchError: If so.
    """
    for option, value in options.items():
        if any(text.lstrip().startswith('{') or 'dict(' in text
               for text in _texts(value)):
            raise LaunchError(
                f'--cfg-options {option}: a dict cannot be given as one '
                f'value. Give its keys one by one, as in {option}.type=NAME '
                f'{option}.KEY=VALUE, or write a config with _base_')


def _texts(value: Any) -> List[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, (list, tuple)):
        return [text for item in value for text in _texts(item)]
    return []


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
    for name in DATALOADERS:
        if isinstance(cfg.get(name), dict):
            _complete_dataloader(cfg[name], no_pin_memory,
                                 no_persistent_workers)
            if cfg.get('default_scope', 'mmpretrain') == 'mmpretrain':
                # As mmpretrain's training script: self-supervised models are
                # fed wrongly without, and without an error. mmdet and mmseg
                # take lists of images.
                cfg[name].setdefault('collate_fn',
                                     dict(type='default_collate'))
    problems = _unknown_options(cfg, options) + _copied_options(cfg, options)
    if problems:
        return problems
    optim_wrapper = cfg.get('optim_wrapper')
    counts = optim_wrapper.get('accumulative_counts', 1) if isinstance(
        optim_wrapper, dict) else 1
    try:
        cfg.merge_from_dict(options)
    except (TypeError, KeyError, IndexError) as error:
        return [f'--cfg-options: {error}']
    for name in DATALOADERS:
        if isinstance(cfg.get(name), dict) and not cfg[name].get(
                'num_workers'):
            cfg[name].persistent_workers = False  # there are none to keep

    missing = [
        name for name in ('model', 'train_dataloader', 'train_cfg',
                          'optim_wrapper') if cfg.get(name) is None
    ]
    if missing:
        problems.append(f'it has no {", ".join(missing)}: it is not a config '
                        'to train with')
    problems += [
        f'{name}={cfg[name]!r} is not a dict'
        for name in ('model', 'train_cfg', 'optim_wrapper', 'default_hooks',
                     'randomness', 'env_cfg', *DATALOADERS)
        if cfg.get(name) is not None and not isinstance(cfg[name], dict)
    ]
    if problems:
        return problems
    if amp:
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')
    if auto_scale_lr:
        if cfg.get('auto_scale_lr') is None:
            return ['--auto-scale-lr needs auto_scale_lr='
                    'dict(base_batch_size=...) in the config']
        cfg.auto_scale_lr.enable = True
    _follow_accumulation(cfg, counts, options)
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
    read = {key: section for key, section in cfg.items()
            if key in READ_SECTIONS}
    for option, value in options.items():
        name, dot, rest = option.partition('.')
        if name in READ_SECTIONS or name not in cfg:
            continue
        copies = list(_copies(name, cfg[name], read))
        if copies:
            shown = '...' if isinstance(value, (list, tuple)) else value
            problems.append(
                f'--cfg-options {option}: nothing reads {name!r}, which was '
                'copied when the config was read. Change the copy: '
                + ' and '.join(f'{copy}{dot}{rest}={shown}'
                               for copy in copies))
    return problems


def _copies(name: str, value: Any, section: Any,
            option: str = '') -> Iterator[str]:
    """Options with the value of a variable.

    Numbers and names are equal by accident, too: only options of the
    variable's own name count then.
    """
    for key, item in _items(section):
        path = f'{option}.{key}' if option else str(key)
        if item == value and (key == name or (
                value and isinstance(value, (dict, list, tuple)))):
            yield path
        else:
            yield from _copies(name, value, item, path)


def _items(section: Any) -> List[Tuple[Any, Any]]:
    if isinstance(section, dict):
        return list(section.items())
    return list(enumerate(section)) if isinstance(section,
                                                  (list, tuple)) else []


def _follow_accumulation(cfg: Config, counts: int,
                         options: Dict[str, Any]) -> None:
    """Keep the scaling of the learning rate right for other accumulation.

    MMEngine compares ``base_batch_size`` with the images of one iteration and
    leaves accumulation out, so the number holds for the config's own
    ``accumulative_counts`` only.
    """
    now = cfg.optim_wrapper.get('accumulative_counts', 1)
    scaling = cfg.get('auto_scale_lr') or {}
    if (now != counts and 'base_batch_size' in scaling
            and 'auto_scale_lr.base_batch_size' not in options
            and all(type(n) is int and n > 0 for n in (now, counts))):
        scaling['base_batch_size'] *= counts / now


def _complete_dataloader(dataloader: dict, no_pin_memory: bool,
                         no_persistent_workers: bool) -> None:
    dataloader.setdefault('pin_memory', get_device() != 'cpu')
    dataloader.setdefault('persistent_workers',
                          bool(dataloader.get('num_workers')))
    if no_pin_memory:
        dataloader['pin_memory'] = False
    if no_persistent_workers:
        dataloader['persistent_workers'] = False
