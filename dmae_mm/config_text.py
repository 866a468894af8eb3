"""Configs as MMEngine writes them: read without being executed, compared."""
import ast
import os.path as osp
from collections import Counter
from typing import Any, Dict, List, Optional, Tuple

from .messages import one_line


# A value that a config does not have.
ABSENT = '(none)'


def flat_config(text: str) -> Dict[str, str]:
    """Read a config that MMEngine has written, without executing it.

    A work dir may come from elsewhere, and ``Config.fromfile`` would run
    what is in its files.

    Dicts in a list are named by their ``type``, ``pipeline[RandomFlip].prob``
    for example, and the list itself shows their order: one more transform at
    the front does not make all others differ.

    Args:
        text (str): A ``config.py``: assignments of literals and ``dict()``.

    Returns:
        dict[str, str]: For the path of each value, its text.

    Raises:
        SyntaxError: If the text is no Python, such as a file cut off.
    """
    flat: Dict[str, str] = {}
    for statement in ast.parse(text).body:
        if isinstance(statement, ast.Assign):
            _flatten(statement.value, ast.unparse(statement.targets[0]), flat)
    return flat


def plain_config(text: str) -> Dict[str, Any]:
    """Read a config that MMEngine has written, without executing it.

    Args:
        text (str): As of :func:`flat_config`.

    Returns:
        dict[str, Any]: Its variables, as far as they are literals, ``dict()``
        and lists of these; in a dict, other values are left out.

    Raises:
        SyntaxError: If the text is no Python, such as a file cut off.
    """
    found = {}
    for statement in ast.parse(text).body:
        if isinstance(statement, ast.Assign):
            try:
                found[ast.unparse(statement.targets[0])] = _plain_value(
                    statement.value)
            except ValueError:
                pass
    return found


def _plain_value(node: ast.expr) -> Any:
    items = _items(node)
    if items is not None:
        found = {}
        for key, value in items:
            try:
                found[key] = _plain_value(value)
            except ValueError:
                pass
        return found
    if isinstance(node, (ast.List, ast.Tuple)):
        values = [_plain_value(element) for element in node.elts]
        return values if isinstance(node, ast.List) else tuple(values)
    return ast.literal_eval(node)


def _flatten(node: ast.expr, name: str, flat: Dict[str, str]) -> None:
    elements = getattr(node, 'elts', [])
    if items := _items(node):
        for key, value in items:
            _flatten(value, f'{name}.{key}', flat)
    elif elements and all(map(_items, elements)):
        labels, seen = [], Counter()
        for element in elements:  # RandomFlip, and RandomFlip#2 for another
            kind = dict(_items(element)).get('type', ast.Constant('dict'))
            label = ast.unparse(kind).strip("'")
            seen[label] += 1
            labels.append(label + f'#{seen[label]}' * (seen[label] > 1))
            _flatten(element, f'{name}[{labels[-1]}]', flat)
        flat[name] = ', '.join(labels)
    else:
        flat[name] = ast.unparse(node)


def _items(node: ast.expr) -> Optional[List[Tuple[str, ast.expr]]]:
    """Keys and values of a dict; None of anything else."""
    if isinstance(node, ast.Dict) and None not in node.keys:
        keys = [str(key.value) if isinstance(key, ast.Constant) else
                ast.unparse(key) for key in node.keys]
        return list(zip(keys, node.values))
    if isinstance(node, ast.Call) and ast.unparse(node.func) == 'dict':
        # MMEngine writes dict({'a-b': 1}) where a key is no identifier.
        parts = [_items(arg) for arg in node.args]
        if None not in parts:
            return sum(parts, []) + [(str(word.arg), word.value)
                                     for word in node.keywords]
    return None


def refuse_repeated_keys(path: str) -> None:
    """Refuse a config in which a dict has the same key twice.

    Python silently keeps the last: of ``{'a': ..., 'a': ...}``, two teachers
    of one name for example, the first would not teach.

    Args:
        path (str): The config, a Python file; the files that its ``_base_``
            names by their paths are looked at as well.

    Raises:
        ValueError: Names file, key and both lines. Likewise if the file is
            no Python, as with ``dict(a=..., a=...)``.
        OSError: If it cannot be read.
    """
    for file in _with_bases(path, {}).items():
        _refuse_repeated_keys(*file)


def _with_bases(path: str, found: Dict[str, ast.Module]) -> Dict[
        str, ast.Module]:
    """The parsed text of a config and of its bases, by path."""
    if path in found or not path.endswith('.py'):
        return found
    with open(path, 'rb') as file:
        text = file.read()
    try:
        found[path] = ast.parse(text, path)
    except (SyntaxError, ValueError, RecursionError) as error:
        raise ValueError(f'The config {path} cannot be read: '
                         f'{one_line(error)}') from None
    for statement in found[path].body:
        if isinstance(statement, ast.Assign) and ast.unparse(
                statement.targets[0]) == '_base_':
            for node in ast.walk(statement.value):
                if isinstance(node, ast.Constant) and isinstance(
                        node.value, str):
                    base = osp.join(osp.dirname(path), node.value)
                    if osp.isfile(base):  # not one of a package
                        _with_bases(base, found)
    return found


def _refuse_repeated_keys(path: str, tree: ast.Module) -> None:
    for node in ast.walk(tree):
        first: Dict[object, int] = {}
        for key in getattr(node, 'keys', ()) if isinstance(
                node, ast.Dict) else ():
            if not isinstance(key, ast.Constant):
                continue
            if key.value in first:
                raise ValueError(
                    f'{path}, line {key.lineno}: the key {key.value!r} is '
                    f'already in line {first[key.value]} of the same dict, '
                    'and Python would keep the last value only. Rename or '
                    'remove one of them.')
            first[key.value] = key.lineno


def differences(
        configs: List[Optional[Dict[str, str]]]) -> Dict[str, List[str]]:
    """What differs between configs.

    Args:
        configs (list[dict | None]): What ``flat_config`` returned; None
            for a run whose config cannot be read, which is not compared.

    Returns:
        dict[str, list[str]]: For each path that has not the same value in
        all configs, the values in the order of ``configs``; :data:`ABSENT`
        where there is none. Where the run is written, ``work_dir``, differs
        always and is left out.
    """
    known = [config for config in configs if config is not None]
    paths = sorted({path for config in known for path in config})
    return {
        path: ['?' if config is None else config.get(path, ABSENT)
               for config in configs]
        for path in paths if path != 'work_dir'
        and len({config.get(path, ABSENT) for config in known}) > 1
    }
