"""Which section of a config an error from deep inside a package comes from."""
import contextlib
import re
import traceback
from typing import Any, Callable, Dict, Iterator, List, Set

import mmengine.registry
from mmengine.config import Config
from mmengine.runner import BaseLoop, TestLoop, ValLoop
from torch.utils.data import DataLoader

from dmae_mm.options import unknown_options

from .sections import DATALOADERS, entries, last_name, read_sections, shown

_LISTED = 8  # options


def explain(error: BaseException, cfg: Config, section: str = '') -> str:
    """Say which section of a config an error comes from.

    It is one whose ``type`` does not exist, or else that of the innermost
    object that was at work, or being made, when the error was raised.

    Args:
        error (BaseException): As it was caught.
        cfg (Config): Of the run.
        section (str): What was being built. Defaults to '', not known.

    Returns:
        str: A few lines: the section, the error, the options that it names,
        or else all options of the section.
    """
    message = ' '.join(str(error).split()) or type(error).__name__
    said = f'{type(error).__name__}: {message}'
    words = set(re.findall(r'\w+', message)) - {'type'}
    if 'student' in words:  # so errors of this package call it
        words.add('backbone')
    scope = cfg.get('default_scope', 'mmengine')
    known = {
        option: value for option, value in entries(read_sections(cfg))
        if not section or f'{option}.'.startswith(f'{section}.')
    }
    makers = {name: {DataLoader} for name in DATALOADERS if name in known}
    for option, value in known.items():
        if not isinstance(value, dict) or 'type' not in value:
            continue
        kind = value['type']
        makers[option] = _makers(kind, scope)
        if _is_no_type(kind, makers[option], error, message):
            return (f'{option}.type: {said}\n    {option}.type = {kind!r}, '
                    f'with default_scope = {scope!r}')

    place = _place(error, message, makers, section)
    options = known.get(place)
    if not isinstance(options, dict):  # not known, or a list
        named = {option: value for option, value in known.items()
                 if last_name(option) in words}
        return _told(place, said, dict(list(named.items())[:_LISTED]))
    kind = options.get('type')
    title = f'{place} ({getattr(kind, "__name__", kind)})' if kind else place
    named = _named(options, words, place)
    more = []
    if isinstance(error, TypeError):
        given = {key: options[key] for key in words.intersection(options)}
        more = [unknown_options(made_by, given)
                for made_by in makers.get(place, ())]
    others = ', '.join(f'{key}={shown(value)}'
                       for key, value in options.items() if key != 'type')
    if others and not named:
        more.append(f'its options: {others}')
    return _told(title, said, named, *(
        line for line in more if line not in message))


def _told(title: str, said: str, named: Dict[str, Any], *more: str) -> str:
    values = [f'{option} = {shown(value)}' for option, value in named.items()]
    return '\n    '.join([f'{title}: {said}' if title else said, *values,
                         *more])


def _makers(kind: Any, scope: str) -> Set[Callable]:
    """The classes and functions that a ``type`` may mean."""
    if callable(kind):
        return {kind}
    found = set()
    for registry in vars(mmengine.registry).values():
        if isinstance(registry, mmengine.registry.Registry):
            with contextlib.suppress(Exception):  # not in this one
                found.add(
                    registry.get(kind if '.' in kind else f'{scope}.{kind}'))
    return found - {None}


def _is_no_type(kind: Any, made_by: Set[Callable], error: BaseException,
                message: str) -> bool:
    """Whether an error says that a ``type`` does not exist."""
    if not isinstance(kind, str):
        return not made_by and isinstance(error, TypeError)
    # It may exist, but not in the registry that was asked.
    return (isinstance(error, KeyError) and message.startswith(f"'{kind} ")
            or not made_by and kind in message.split())


def _place(error: BaseException, message: str,
           makers: Dict[str, Set[Callable]], section: str) -> str:
    """The section that an error comes from, or ''."""
    place, part = section, 'train'
    for owner in _at_work(error):
        options = [option for option, made_by in makers.items()
                   if type(owner) in made_by]
        if isinstance(owner, BaseLoop):
            part = ('val' if isinstance(owner, ValLoop) else
                    'test' if isinstance(owner, TestLoop) else 'train')
            options = [f'{part}_cfg']
        elif type(owner).__module__.startswith('torch.utils.data'):
            options = [f'{part}_dataloader']
        place = _nearest(options, place, part)
    # A call with wrong arguments fails before there is an object.
    called = [
        option for option, made_by in makers.items()
        if any(f'{_qualified_name(maker)}() ' in message for maker in made_by)
    ]
    return _nearest(called, place, part)


def _nearest(options: List[str], place: str, part: str) -> str:
    """Which of some sections that are alike is meant: inside of ``place``."""
    if place in options:
        return place
    inside = [option for option in options if option.startswith(f'{place}.')]
    return min(
        inside or options,
        key=lambda option: (not option.startswith(part), option.count('.')),
        default=place)


def _at_work(error: BaseException) -> Iterator[Any]:
    """The objects whose methods an error went through, outermost first."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        yield frame.f_locals.get('self')
    cause = error.__cause__ or error.__context__
    if cause is not None:
        yield from _at_work(cause)


def _qualified_name(maker: Callable) -> str:
    """As Python calls it when arguments are wrong: 'DMAE.__init__'."""
    function = maker.__init__ if isinstance(maker, type) else maker
    return getattr(function, '__qualname__', '?')


def _named(options: dict, words: Set[str], place: str) -> Dict[str, Any]:
    """The options that a message names, and those inside them."""
    found = {}
    for key, value in options.items():
        if key in words:
            option = f'{place}.{key}'
            inner = _named(value, words, option) if isinstance(
                value, dict) else {}
            found.update(inner or {option: value})
    return found
