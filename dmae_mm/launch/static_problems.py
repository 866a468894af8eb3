"""What is wrong with a config, as far as can be seen without building it."""
from typing import Any, List

from mmengine.config import Config
from mmengine.hooks import Hook

from dmae_mm.options import is_finite_number

from .complete_config import DATALOADERS
from .missing_files import missing_files

# Larger numbers in `model`, or of workers, would keep the machine busy for
# hours before anything fails.
LARGEST, MOST_WORKERS = 10**6, 1024


def static_problems(cfg: Config) -> List[str]:
    """What can be seen without building anything.

    Args:
        cfg (Config): Completed.

    Returns:
        list[str]: A sentence for each problem, with its option.
    """
    problems = _too_large(cfg.get('model'), 'model')
    if not isinstance(cfg.get('default_scope', ''), str):
        problems.append(f'default_scope={cfg.default_scope!r} is not the name '
                        "of a package, such as 'mmpretrain'")
    problems += _hooks(cfg)
    for key in ('max_epochs', 'max_iters'):
        length = cfg.train_cfg.get(key)
        if length is not None and (type(length) is not int or length < 1):
            problems.append(f'train_cfg.{key}={length!r} is not an int of at '
                            'least 1')
    for name in DATALOADERS:
        section = cfg.get(name)
        if isinstance(section, dict):
            problems += _dataloader(section, name)
    for option, section in (('data_preprocessor',
                             cfg.get('data_preprocessor')),
                            ('model.data_preprocessor',
                             cfg.model.get('data_preprocessor'))):
        if isinstance(section, dict):
            problems += _normalisation(section, option)
    return problems + missing_files(cfg)


def _dataloader(section: dict, name: str) -> List[str]:
    problems = []
    workers = section.get('num_workers', 0)
    if type(workers) is not int or not 0 <= workers <= MOST_WORKERS:
        problems.append(f'{name}.num_workers={workers!r} is not an int from 0 '
                        f'to {MOST_WORKERS}')
    for key in ('dataset', 'sampler'):
        # A config written in Python may hold the object itself.
        value = section.get(key)
        if value is None or isinstance(value, (str, int, float, list, tuple)):
            problems.append(f'{name}.{key}={value!r} is not a dict')
        elif isinstance(value, dict) and 'type' not in value:
            problems.append(f"{name}.{key}={dict(value)!r} has no 'type'")
    return problems


def _hooks(cfg: Config) -> List[str]:
    custom = cfg.get('custom_hooks') or []
    if not isinstance(custom, (list, tuple)):
        return [f'custom_hooks={custom!r} is not a list']
    hooks = [(f'default_hooks.{name}', hook)
             for name, hook in (cfg.get('default_hooks') or {}).items()
             if hook is not None]  # None leaves out one of MMEngine's
    hooks += [(f'custom_hooks.{index}', hook)
              for index, hook in enumerate(custom)]
    return [
        f"{option}={hook!r} is not a dict with the hook's 'type'"
        for option, hook in hooks if not isinstance(hook, Hook) and not (
            isinstance(hook, dict) and 'type' in hook)
    ]


def _normalisation(section: dict, option: str) -> List[str]:
    """Pixels must stay numbers: a loss that is none would not say why."""
    problems = []
    for key in ('mean', 'std'):
        for value in _flat(section.get(key)):
            if not is_finite_number(value) or (key == 'std' and value <= 0):
                problems.append(
                    f'{option}.{key}={section[key]!r} must be finite numbers' +
                    (' above 0' if key == 'std' else ''))
                break
    return problems


def _flat(value: Any) -> List[Any]:
    if isinstance(value, (list, tuple)):
        return [inner for item in value for inner in _flat(item)]
    return [] if value is None else [value]


def _too_large(value: Any, option: str) -> List[str]:
    items = value.items() if isinstance(value, dict) else (
        enumerate(value) if isinstance(value, (list, tuple)) else ())
    problems = []
    for key, item in items:
        if type(item) is int and abs(item) > LARGEST:
            problems.append(f'{option}.{key}={item} is beyond any model: at '
                            f'most {LARGEST} is accepted')
        problems += _too_large(item, f'{option}.{key}')
    return problems
