"""The tables of docs/recipes.md, which is where variations are defined.

A row is a config file of its name, or, where the table has a column "options",
another config with these options.
"""
import argparse
import copy
import functools
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Dict, List, Optional

from mmengine.config import Config

from dmae_mm.host import ConfigOptions, read_config

ROOT = Path(__file__).parents[1]
PAGE = ROOT / 'docs' / 'recipes.md'
STUDENTS_PAGE = ROOT / 'docs' / 'students.md'  # with rows of some of these
OBJECTIVES_PAGE = ROOT / 'docs' / 'objectives.md'  # likewise


@dataclass(frozen=True)
class Row:
    """A recipe.

    Attributes:
        name (str): As it is called, such as 'vit-b_dmae-mlp'.
        config (str): Path of its config file.
        options (str): What follows ``--cfg-options`` on the command line of
            tools/train.py; '' for nothing.
        cells (dict[str, str]): The row by the table's headers.
    """
    name: str
    config: str
    options: str
    cells: Dict[str, str]

    def parsed_options(self) -> dict:
        """The options as tools/train.py understands them."""
        parser = argparse.ArgumentParser()
        parser.add_argument(
            '--cfg-options', nargs='*', action=ConfigOptions, default={})
        return parser.parse_args(
            ['--cfg-options', *shlex.split(self.options)]).cfg_options

    def read(self) -> Config:
        """The config, with the options in it."""
        cfg = copy.deepcopy(_read(self.config))
        cfg.merge_from_dict(self.parsed_options())
        return cfg


def read_page(text: str) -> Dict[str, Row]:
    """All rows by name.

    Args:
        text (str): The page.

    Returns:
        dict[str, Row]: The rows, in the order of the page.

    Raises:
        ValueError: If two rows have one name, or a row has no config file.
    """
    rows = {}
    headers: List[str] = []
    for line in text.splitlines():
        if not line.startswith('|'):
            headers = []
        elif not headers:
            headers = _cells(line)
        elif line.startswith('| `') and 'config' in headers:
            row = _row(dict(zip(headers, _cells(line))))
            if row.name in rows:
                raise ValueError(f'{PAGE.name} has two rows {row.name!r}.')
            rows[row.name] = row
    return rows


def replace_cells(text: str,
                  cells_of: Callable[[Row], List[str]],
                  rows: Optional[Dict[str, Row]] = None) -> str:
    """The page with other last columns.

    Args:
        text (str): The page.
        cells_of (Callable): Of a row, its last cells.
        rows (dict[str, Row], optional): The rows that it names. Defaults to
            None: they stand on it.

    Returns:
        str: The page.
    """
    rows = read_page(text) if rows is None else rows
    lines = text.splitlines()
    for number, line in enumerate(lines):
        cells = _cells(line)
        if line.startswith('| `') and cells[0].strip('`') in rows:
            last = cells_of(rows[cells[0].strip('`')])
            cells[-len(last):] = last
            lines[number] = f'| {" | ".join(cells)} |'
    return '\n'.join(lines) + '\n'


# MMEngine takes a third of a second to find mmpretrain's base configs.
_read = functools.lru_cache(maxsize=None)(read_config)


def _cells(line: str) -> List[str]:
    return [cell.strip() for cell in line.strip()[1:-1].split('|')]


def _row(cells: Dict[str, str]) -> Row:
    name, *_ = (cell.strip('`') for cell in cells.values())
    config = cells['config'].strip('`')
    files = sorted((ROOT / 'configs').glob(f'*/{config}_in1k.py'))
    if len(files) != 1:
        raise ValueError(f'{PAGE.name}: {name} is made of {config!r}, which '
                         'has to be configs/FOLDER/NAME_in1k.py.')
    return Row(name, str(files[0]), cells.get('options', '').strip('`'), cells)
