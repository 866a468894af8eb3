"""A config as tools/train.py trains it: completed, with all options in it."""
import difflib
import inspect
from typing import Any, Dict, List

from mmengine.config import Config
from mmengine.device import get_device
from mmengine.runner import Runner

DATALOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')
# Sections that MMEngine reads although its Runner has no such argument.
_MORE_SECTIONS = {
    'activation_checkpointing', 'compile', 'efficient_conv_bn_eval',
    'find_unused_parameters', 'model_wrapper_cfg', 'runner_type', 'strategy',
    'sync_bn'
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
    problems = _unknown_options(cfg, options)
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
    known = {*cfg, *inspect.signature(Runner.__init__).parameters,
             *_MORE_SECTIONS}
    for option in options:
        section = option.split('.')[0]
        if section not in known:
            similar = difflib.get_close_matches(section, known, 1)
            hint = f'; did you mean {similar[0]!r}?' if similar else (
                f'. The config has: {", ".join(sorted(cfg))}')
            problems.append(f'--cfg-options {option}: there is no section '
                            f'{section!r}{hint}')
    return problems


def _follow_accumulation(cfg: Config, counts: int,
                         options: Dict[str, Any]) -> None:
    """Keep the scaling of the learning rate right for other accumulation.

    MMEngine compares ``base_batch_size`` with the images of one iteration and
    leaves accumulation out, so the number holds for the config's own
    ``accumulative_counts`` only.
    """
    now = cfg.optim_wrapper.get('accumulative_counts', 1)
    if now != counts and 'auto_scale_lr.base_batch_size' not in options:
        cfg.auto_scale_lr.base_batch_size *= counts / now


def _complete_dataloader(dataloader: dict, no_pin_memory: bool,
                         no_persistent_workers: bool) -> None:
    dataloader.setdefault('pin_memory', get_device() != 'cpu')
    dataloader.setdefault('persistent_workers',
                          bool(dataloader.get('num_workers')))
    if no_pin_memory:
        dataloader['pin_memory'] = False
    if no_persistent_workers:
        dataloader['persistent_workers'] = False
