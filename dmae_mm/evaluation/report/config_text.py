"""Configs as text: read without being executed, and compared."""
import ast
from typing import Any, Dict, List, Optional

# A value that a config does not have.
ABSENT = '(none)'


def read_config(text: str) -> Dict[str, Any]:
    """Read a config that MMEngine has written, without executing it.

    A work dir may come from elsewhere, and ``Config.fromfile`` would run
    what is in its files.

    Args:
        text (str): A ``config.py``: assignments of literals and ``dict()``.

    Returns:
        dict: The assigned values. What is no literal stays text.

    Raises:
        SyntaxError: If the text is no Python, such as a file cut off.
    """
    return {
        statement.targets[0].id: _value(statement.value)
        for statement in ast.parse(text).body
        if isinstance(statement, ast.Assign)
        and isinstance(statement.targets[0], ast.Name)
    }


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Call) and getattr(node.func, 'id', '') == 'dict':
        # MMEngine writes dict({'a-b': 1}) where a key is no identifier.
        parts = [_value(arg) for arg in node.args]
        if all(isinstance(part, dict) for part in parts):
            given = {key: value for part in parts
                     for key, value in part.items()}
            return {**given, **{word.arg: _value(word.value)
                                for word in node.keywords}}
    if isinstance(node, ast.Dict) and None not in node.keys:
        return {_key(key): _value(value)
                for key, value in zip(node.keys, node.values)}
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_value(item) for item in node.elts]
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError):
        return ast.unparse(node)


def _key(node: ast.expr) -> str:
    return node.value if isinstance(node, ast.Constant) else ast.unparse(node)


def flatten(config: Any, name: str = '') -> Dict[str, str]:
    """Name each value by its path.

    Dicts in a list are named by their ``type``, ``pipeline[RandomFlip].prob``
    for example, and the list itself shows their order: one more transform at
    the front does not make all others differ.

    Args:
        config: What :func:`read_config` returns, or a part of it.
        name (str): Path of this part. Defaults to ''.

    Returns:
        dict[str, str]: Path and value, as text.
    """
    if isinstance(config, dict) and (config or not name):
        parts = [(f'{name}.{key}' if name else str(key), value)
                 for key, value in config.items()]
    elif (isinstance(config, list) and config
          and all(isinstance(item, dict) for item in config)):
        labels = _labels(config)
        parts = [(f'{name}[{label}]', value)
                 for label, value in zip(labels, config)]
    else:
        return {name: repr(config)}
    flat = {} if isinstance(config, dict) else {name: ', '.join(labels)}
    for path, value in parts:
        flat.update(flatten(value, path))
    return flat


def _labels(items: List[dict]) -> List[str]:
    """RandomFlip, and RandomFlip#2 where there is another."""
    labels, seen = [], {}
    for item in items:
        label = str(item.get('type', 'dict'))
        seen[label] = seen.get(label, 0) + 1
        labels.append(label if seen[label] == 1 else f'{label}#{seen[label]}')
    return labels


def differences(
        configs: List[Optional[Dict[str, Any]]]) -> Dict[str, List[str]]:
    """What differs between configs.

    Args:
        configs (list[dict | None]): What :func:`read_config` returned; None
            for a run whose config cannot be read, which is not compared.

    Returns:
        dict[str, list[str]]: For each path that has not the same value in
        all configs, the values in the order of ``configs``; :data:`ABSENT`
        where there is none. Where the run is written, ``work_dir``, differs
        always and is left out.
    """
    flat = [None if config is None else flatten(config) for config in configs]
    known = [values for values in flat if values is not None]
    paths = sorted({path for values in known for path in values})
    return {
        path: ['?' if values is None else values.get(path, ABSENT)
               for values in flat]
        for path in paths if path != 'work_dir'
        and len({values.get(path, ABSENT) for values in known}) > 1
    }
