"""What a config to train with consists of."""
import inspect
from typing import Any, Dict, Iterator, Tuple

from mmengine.config import Config
from mmengine.runner import Runner

DATALOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')
# Sections that are read: the arguments of MMEngine's Runner, more that it
# reads, and those that the reading of a config file and this package read.
READ_SECTIONS = {
    *inspect.signature(Runner.__init__).parameters, 'activation_checkpointing',
    'compile', 'efficient_conv_bn_eval', 'find_unused_parameters',
    'model_wrapper_cfg', 'runner_type', 'strategy', 'sync_bn',
    'custom_imports', 'overwrite'
}
_SHOWN = 240  # letters of a value


def read_sections(cfg: Config) -> Dict[str, Any]:
    """Without variables of a config, which only helped to write it."""
    return {key: cfg[key] for key in cfg if key in READ_SECTIONS}


def entries(section: Any, option: str = '') -> Iterator[Tuple[str, Any]]:
    """Go through all that is in a section.

    Args:
        section: A dict or list of a config; anything else has no entries.
        option (str): Its name in the config. Defaults to '', the whole.

    Yields:
        tuple[str, Any]: Option and value of an entry, followed by those of
        the entries in it.
    """
    items = section.items() if isinstance(section, dict) else (
        enumerate(section) if isinstance(section, (list, tuple)) else ())
    for key, value in items:
        inner = f'{option}.{key}' if option else str(key)
        yield inner, value
        yield from entries(value, inner)


def last_name(option: str) -> str:
    """'lr' of 'optim_wrapper.optimizer.lr'."""
    return option.rpartition('.')[2]


def shown(value: Any) -> str:
    """A value in a message, cut if it is long."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f'{text[:_SHOWN]}...'


def hooks(cfg: Config) -> Dict[str, Any]:
    """Option and value of each hook, whatever a config has in its place."""
    default, custom = cfg.get('default_hooks'), cfg.get('custom_hooks')
    return {
        **{f'default_hooks.{name}': hook
           for name, hook in (default or {}).items()
           if hook is not None},  # None leaves out one of MMEngine's
        **{f'custom_hooks.{index}': hook for index, hook in enumerate(
            custom if isinstance(custom, (list, tuple)) else ())}
    }
