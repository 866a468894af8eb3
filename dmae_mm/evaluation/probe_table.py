"""Accuracies of several models as a table."""
from typing import Any, Dict, List


def probe_table(rows: List[Dict[str, Any]]) -> str:
    """One line a model, for a person.

    Args:
        rows (list[dict]): Of :func:`probe_models`.
    """
    first = rows[0]
    head = ['model', 'parameters', 'px', 'width']
    head += [f'kNN (k={first["k"]})'] * ('knn' in first)
    head += ['linear'] * ('linear' in first)
    cells = [head] + [[
        row['name'], f'{row["parameters"] / 1e6:.1f} M', str(row['img_size']),
        str(row['width']),
        *(f'{row[kind]:.2f}' for kind in ('knn', 'linear') if kind in row)
    ] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells)]
    lines = [
        '  '.join([line[0].ljust(widths[0])] + [
            cell.rjust(width) for cell, width in zip(line[1:], widths[1:])
        ]) for line in cells
    ]
    return '\n'.join([
        *lines, f'{probed_images(first)}; features: {first["features"]}. '
        'Accuracies in percent.'
    ])


def probed_images(row: Dict[str, Any]) -> str:
    """Which images a row of :func:`probe_models` is of."""
    return (f'{row["train_images"]} training and {row["test_images"]} test '
            f'images of {row["classes"]} classes')
