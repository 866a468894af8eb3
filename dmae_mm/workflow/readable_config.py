"""A config as a file that a person reads."""
import keyword
from typing import Any, Iterator, List, Tuple

from mmengine.config import Config

WIDTH = 79
# What a reader asks first comes first; other sections follow.
ORDER = ('custom_imports', 'default_scope', 'model', 'data_preprocessor',
         'train_dataloader', 'val_dataloader', 'test_dataloader',
         'optim_wrapper', 'param_scheduler', 'train_cfg', 'val_cfg',
         'test_cfg', 'auto_scale_lr', 'default_hooks', 'custom_hooks')


def readable_config(cfg: Config) -> str:
    """A config as text, sections in the order in which they are read.

    MMEngine's own ``Config.dump`` sorts sections and options by the alphabet
    and writes each number of a list in a line of its own. The same config is
    read from both.

    Args:
        cfg (Config): The config; its values are those of Python's literals.

    Returns:
        str: The text of a Python file, lines of at most 79 letters where
        values are not longer.
    """
    sections = cfg.to_dict()
    names = [name for name in ORDER if name in sections]
    names += [name for name in sections if name not in names]
    return '\n'.join(
        f'{name} = {_written(sections[name], len(name) + 3, 0)}'
        for name in names) + '\n'


def _written(value: Any, begins: int, indent: int) -> str:
    """A value, in one line if it fits behind what begins the line."""
    line = _in_one_line(value)
    if begins + len(line) < WIDTH or not (
            value and isinstance(value, (dict, list, tuple))):
        return line
    opening, closing = _brackets(value)
    inner = indent + 4
    lines: List[str] = []
    for key, item in _parts(value):
        lines.append(' ' * inner + key
                     + _written(item, inner + len(key), inner) + ',')
    if isinstance(value, (list, tuple)) and not any(
            isinstance(item, (dict, list, tuple)) for item in value):
        lines = _filled([line.strip() for line in lines], inner)
    return '\n'.join([opening, *lines, ' ' * indent + closing])


def _filled(words: List[str], indent: int) -> List[str]:
    """As many words in a line as fit."""
    lines = ['']
    for word in words:
        if lines[-1] and indent + len(lines[-1]) + 1 + len(word) > WIDTH:
            lines.append('')
        lines[-1] += ' ' * bool(lines[-1]) + word
    return [' ' * indent + line for line in lines]


def _in_one_line(value: Any) -> str:
    if isinstance(value, (dict, list, tuple)):
        opening, closing = _brackets(value)
        inner = ', '.join(key + _in_one_line(item)
                          for key, item in _parts(value))
        return opening + inner + ',' * (
            isinstance(value, tuple) and len(value) == 1) + closing
    return repr(value)


def _brackets(value: Any) -> Tuple[str, str]:
    if isinstance(value, dict):
        return ('dict(', ')') if _has_names(value) else ('{', '}')
    return ('[', ']') if isinstance(value, list) else ('(', ')')


def _parts(value: Any) -> Iterator[Tuple[str, Any]]:
    """What is written in front of each item, and the item; `type` first."""
    if not isinstance(value, dict):
        yield from (('', item) for item in value)
        return
    mark = '{}=' if _has_names(value) else '{!r}: '
    for key in sorted(value, key=lambda key: key != 'type'):
        yield mark.format(key), value[key]


def _has_names(value: dict) -> bool:
    return all(isinstance(key, str) and key.isidentifier()
               and not keyword.iskeyword(key) for key in value)
