"""The commands of README, CONTRIBUTING and docs, as text."""
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator, List, Tuple

from tests.toys.models import ROOT

PAGES = [
    ROOT / 'README.md', ROOT / 'CONTRIBUTING.md',
    *sorted((ROOT / 'docs').glob('*.md'))
]
_FENCE = re.compile(r'^```(\w*)\n(.*?)^```$', re.DOTALL | re.MULTILINE)
_INLINE = re.compile(
    r'`((?:\w+=\S* )*(?:python|bash|make|mim \w+|pip) [^`]+)`')
_ASSIGNMENT = re.compile(r'^\w+=\S*(?:\$\([^)]*\)\S*)?$')


@dataclass
class Fence:
    """A block of code of a page."""
    page: Path
    line: int  # of its first line, from 1
    language: str
    text: str

    @property
    def place(self) -> str:
        return f'{self.page.relative_to(ROOT)}:{self.line}'


@dataclass
class Command:
    """A command on one line."""
    page: Path
    line: int
    text: str
    settings: Tuple[str, ...] = ()  # of variables, in the lines before

    @property
    def place(self) -> str:
        return f'{self.page.relative_to(ROOT)}:{self.line}'


def fences(page: Path, *languages: str) -> List[Fence]:
    """Blocks of code in these languages."""
    text = page.read_text()
    return [
        Fence(page, text.count('\n', 0, match.start(2)) + 1, match[1],
              match[2]) for match in _FENCE.finditer(text)
        if match[1] in languages
    ]


def logical_lines(text: str) -> Iterator[Tuple[int, str]]:
    """Number and text of each line of bash, without comments; one that a
    backslash ends is one with the next."""
    begin, parts = 0, []
    for number, line in enumerate(text.splitlines()):
        line = re.sub(r'(^|\s)#.*', '', line).strip()
        if not parts:
            begin = number
        if line.endswith('\\'):
            parts.append(line[:-1].strip())
            continue
        line, parts = ' '.join([*parts, line]), []
        if line:
            yield begin, line


def block_commands(page: Path) -> Iterator[Command]:
    """The commands in the blocks of a page."""
    for fence in fences(page, 'bash'):
        settings = []
        for number, line in logical_lines(fence.text):
            if _ASSIGNMENT.match(line):
                settings.append(line)
            else:
                yield Command(page, fence.line + number, line,
                              tuple(settings))


def inline_commands(page: Path) -> Iterator[Command]:
    """The commands within the text of a page, those of tables among them."""
    text = _FENCE.sub(lambda match: '\n' * match[0].count('\n'),
                      page.read_text())
    for match in _INLINE.finditer(text):
        line = ' '.join(match[1].split())
        yield Command(page, text.count('\n', 0, match.start()) + 1, line)


def table_commands(page: Path) -> Iterator[Command]:
    """Those that are the last cell of a row of a table."""
    lines = page.read_text().splitlines()
    for command in inline_commands(page):
        if lines[command.line - 1].endswith(f'`{command.text}` |'):
            yield command
