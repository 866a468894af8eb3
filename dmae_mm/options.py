"""Options that do not exist are refused with the list of those that do."""
import functools
import inspect
import math
from typing import Any, Iterator, Type


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
    init = cls.__init__
    legal = list(_options(cls))

    @functools.wraps(init)
    def checked_init(self, *args, **kwargs):
        unknown = {k: v for k, v in kwargs.items() if k not in legal}
        if unknown:
            given = ', '.join(f'{k}={v!r}' for k, v in unknown.items())
            raise TypeError(f'{cls.__name__} has no option {given}. '
                            f'Its options are: {", ".join(legal) or "none"}.')
        init(self, *args, **kwargs)

    cls.__init__ = checked_init
    return cls


def _options(cls: Type) -> Iterator[str]:
    parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]
    for parameter in parameters:
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD:
            yield parameter.name
        elif parameter.kind is parameter.VAR_KEYWORD and cls is not object:
            yield from _options(cls.__base__)


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
