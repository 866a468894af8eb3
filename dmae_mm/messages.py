"""Parts of messages to a person."""
from typing import Sequence


def first_few(items: Sequence[str],
              limit: int = 5,
              separator: str = ', ') -> str:
    """The first of many items, and how many more there are.

    Args:
        items (Sequence[str]): What is listed.
        limit (int): How many are spelled out. Defaults to 5.
        separator (str): What stands between them. Defaults to ', '.

    Returns:
        str: For example 'a, b, c, d, e and 2 more'.
    """
    more = f' and {len(items) - limit} more' * (len(items) > limit)
    return separator.join(items[:limit]) + more


def one_line(error: Exception) -> str:
    """A foreign error in one line of at most 500 letters: 'KeyError: 'x''."""
    lines = [line.strip() for line in str(error).splitlines()]
    return f'{type(error).__name__}: {" ".join(lines)[:500]}'
