"""Options that do not exist are refused with the list of those that do."""
import difflib
import functools
import inspect
import math
from typing import Any, Callable, Dict, List, Optional, Sequence, Type


def legal_options(made_by: Callable,
                  named: bool = False) -> Optional[List[str]]:
    """The options that a class or function has, from its signature.

    Args:
        made_by (Callable): What the ``type`` of a config section names. Where
            a constructor hands on ``**kwargs``, those of its bases are
            options as well.
        named (bool): Whether those named are all, also where the last base
            takes ``**kwargs``. Defaults to False.

    Returns:
        list[str] | None: None if any option is taken, or no signature known.
    """
    constructors = [
        vars(cls)['__init__'] for cls in made_by.__mro__
        if cls is not object and '__init__' in vars(cls)
    ] if isinstance(made_by, type) else [made_by]
    legal: List[str] = []
    for constructor in constructors:
        try:
            parameters = inspect.signature(constructor).parameters.values()
        except ValueError:  # written in C
            return None
        legal += [
            parameter.name for parameter in parameters
            if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD,
                                  parameter.KEYWORD_ONLY)
            and parameter.name not in ('self', *legal)
        ]
        if all(parameter.kind != parameter.VAR_KEYWORD
               for parameter in parameters):
            return legal
    return legal if named or not constructors else None


def close_first(wanted: str, legal: Sequence[str]) -> List[str]:
    """Legal names in order of the alphabet, those close to one in front."""
    close = difflib.get_close_matches(wanted, legal, cutoff=.5)
    return close + [name for name in sorted(legal) if name not in close]


def unknown_options(made_by: Callable,
                    given: Dict[str, Any],
                    legal: Optional[List[str]] = None) -> str:
    """What to say of options that a class or function does not have.

    Args:
        made_by (Callable): The class or function.
        given (dict): Options and their values.
        legal (list[str], optional): Options that exist. Defaults to those in
            the signature.

    Returns:
        str: Those that do not exist, and the legal ones, close ones first;
        '' if all exist.
    """
    legal = legal_options(made_by) if legal is None else legal
    if legal is None or given.keys() <= {*legal}:
        return ''
    unknown = {name: given[name] for name in given if name not in legal}
    close = [
        option for name in unknown
        for option in difflib.get_close_matches(name, legal)
    ]
    listed = sorted(legal, key=lambda option: option not in close)
    return (f'{made_by.__name__} has no option '
            f'{", ".join(f"{k}={v!r}" for k, v in unknown.items())}. '
            f'Its options are: {", ".join(listed) or "none"}.')


def reject_unknown_options(cls: Type) -> Type:
    """Class decorator: a mistyped option is an error that lists legal ones.

    Python's own message for an unexpected keyword names neither its value
    nor the legal options, which is what a person with a typo in a config
    needs.

    Args:
        cls (type): A class. Where its constructor takes ``**kwargs``, they
            are the options of the class that it derives from.

    Returns:
        type: The same class. Its constructor raises ``TypeError`` for
        keywords that it does not have.
    """
    init, legal = cls.__init__, legal_options(cls, named=True)

    @functools.wraps(init)
    def checked_init(self, *args, **kwargs):
        problem = unknown_options(cls, kwargs, legal)
        if problem:
            raise TypeError(problem)
        init(self, *args, **kwargs)

    cls.__init__ = checked_init
    return cls


def is_finite_number(value: Any) -> bool:
    """Whether an option is a number to compute with.

    Args:
        value: What a config says.

    Returns:
        bool: True for an int or float that is neither infinite nor NaN.
        ``True`` and ``False`` are no numbers here.
    """
    return (isinstance(value, (int, float)) and not isinstance(value, bool)
            and math.isfinite(value))
