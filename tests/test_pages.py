"""README and docs: what they point to is there."""
import re
import runpy
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Iterator, List

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / 'README.md', ROOT / 'CONTRIBUTING.md',
    *sorted((ROOT / 'docs').glob('*.md'))
]
FOLDERS = ('.ci', 'configs', 'dmae_mm', 'docs', 'examples', 'studies', 'tests',
           'tools')
NAMES = {path.name for path in ROOT.glob('*')}.union(
    *({path.name for path in (ROOT / folder).rglob('*')}
      for folder in FOLDERS))
NAMES.add('config.py')  # tools/distill.py writes it
CODE = re.compile(r'```.*?```|`[^`]+`', re.DOTALL)
# Not within another path, as that of '/path/to/dmae_mm/configs/FILE' is.
PATH = re.compile(r'(?<![\w/.~-])(?:%s)/[\w./{},*-]*' %
                  '|'.join(map(re.escape, FOLDERS)))
NAME = re.compile(r'(?<![\w{},/.*~-])[\w{},-]+\.(?:cfg|md|py|sh|yml)(?![\w.])')
LINK = re.compile(r'\]\(([^)\s]+)\)')


def expanded(path: str) -> List[str]:
    """'a/{b,c}.py' as bash reads it; in capitals, any name is meant."""
    parts = re.split(r'\{([^}]*)\}', re.sub(r'[A-Z]{3,}', '*', path))
    choices = [part.split(',') if i % 2 else [part]
               for i, part in enumerate(parts)]
    return [''.join(choice) for choice in product(*choices)]


def anchors(page: Path) -> List[str]:
    """What GitHub calls the headings of a page."""
    lines = re.findall(r'^#+ (.*)$', page.read_text(), re.MULTILINE)
    return [re.sub(r'[^\w -]', '', line).lower().replace(' ', '-')
            for line in lines]


def missing(page: Path) -> Iterator[str]:
    """What a page points to in the repository and that is not there."""
    text = page.read_text()
    for code in CODE.findall(text):
        for path in PATH.findall(code):
            if not all(any(ROOT.glob(one.rstrip('/.,')))
                       for one in expanded(path)):
                yield path
        if not code.startswith('```'):
            for name in NAME.findall(code):
                if name not in NAMES and not NAMES.issuperset(expanded(name)):
                    yield name
    for link in LINK.findall(CODE.sub('', text)):
        target, _, anchor = link.partition('#')
        if re.match('[a-z]+:', target):
            continue
        path = page.parent / target if target else page
        if not path.exists() or anchor and anchor not in anchors(path):
            yield link


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_what_a_page_points_to_is_there(page):
    assert list(missing(page)) == []


def test_what_is_not_there_is_found(tmp_path):
    page = tmp_path / 'page.md'
    page.write_text('''# Of a page: `A` and B
`dmae_mm/models/{dmae,gone}.py`, `tools/train.py`, `gone.py`, `dmae.py`,
`README.md`,
`/path/to/configs/gone.py`, [here](#of-a-page-a-and-b), [gone](#gone),
[gone](gone.md), [elsewhere](https://gone.org), `configs/FOLDER/NAME_in1k.py`
```bash
python tools/gone.py configs/dmae/*.py configs/gone/
```
''')
    assert list(missing(page)) == [
        'dmae_mm/models/{dmae,gone}.py', 'gone.py', 'tools/gone.py',
        'configs/gone/', '#gone', 'gone.md'
    ]


def test_each_page_of_the_site_is_found_from_its_start():
    text = (ROOT / 'docs/index.md').read_text()
    listed = re.findall(r'^(?:.* <)?([\w-]+)>?$', text, re.MULTILINE)
    listed.remove('self')
    assert sorted(listed) == sorted(
        page.stem for page in (ROOT / 'docs').glob('*.md')
        if page.stem != 'index')


@pytest.mark.parametrize('name, text, wanted', [
    ('data', '[a](../README.md#b) [c](../tools/d.py) [e](speed.md)',
     '[a](index.md#b) [c](../tools/d.py) [e](speed.md)'),
    ('index', '', '[a](data.md) [c](../tools/d.py) [e](contributing.md) '
     '[f](https://g.org) [h](#i)'),
])
def test_links_lead_where_the_site_has_the_page(name, text, wanted, tmp_path):
    (tmp_path / 'README.md').write_text(
        '[a](docs/data.md) [c](tools/d.py) [e](CONTRIBUTING.md) '
        '[f](https://g.org) [h](#i)')
    read_page = runpy.run_path(str(ROOT / 'docs/conf.py'))['read_page']
    read_page.__globals__['ROOT'] = tmp_path
    app = SimpleNamespace(
        env=SimpleNamespace(note_dependency=lambda path: None))
    source = [text]
    read_page(app, name, source)
    assert source == [wanted]
