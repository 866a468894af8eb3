"""Configs as MMEngine writes them: read without being executed, compared."""
import ast
from collections import Counter
from typing import Dict, List, Optional, Tuple


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
