"""What may import what, and where things lie."""
import ast
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / 'dmae_mm'
# The files and folders of the package, from the lowest layer to the highest.
# Each imports from itself and from lower layers only. Those of one layer do
# not know each other; those of the lowest may.
LAYERS = (
    ('config_text', 'messages', 'options', 'files', 'version',
     'host_packages'),
    ('host', ),
    ('weights', 'datasets'),
    ('models', ),
    ('evaluation', ),
    ('engine', ),
    ('launch', ),
    ('workflow', ),
    ('__main__', ),
)
LAYER = {name: i for i, layer in enumerate(LAYERS) for name in layer}


def imports(path, root=ROOT):
    """Dotted names of all that a file imports, also inside functions.

    ``from a import b`` gives a.b: a module, or what is defined in a.
    """
    parts = path.relative_to(root).parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            # One dot is the file's folder, each further one that above.
            above = parts[:len(parts) - node.level] if node.level else ()
            module = '.'.join((*above, *filter(None, [node.module])))
            yield from (f'{module}.{alias.name}' for alias in node.names)


def all_imports(folder):
    """Pairs of a file, from the root of the repository, and a name."""
    return [(path.relative_to(ROOT), name)
            for path in sorted(folder.rglob('*.py')) for name in imports(path)]


def may_import(importer, name):
    """Whether 'models' may import 'dmae_mm.host.build', for example."""
    imported = name.split('.')[1] if '.' in name else ''
    if imported in (importer, '__version__'):
        return True
    here, there = LAYER[importer], LAYER.get(imported, len(LAYERS))
    return there < here or there == here == 0


def complain(wrong):
    assert not wrong, '\n' + '\n'.join(
        f'{path} imports {name}' for path, name in wrong)


def test_no_import_is_overlooked(tmp_path):
    path = tmp_path / 'dmae_mm' / 'models' / 'necks' / 'neck.py'
    path.parent.mkdir(parents=True)
    path.write_text('import a.b, c\n'
                    'from d.e import f, g as h\n'
                    'from . import i\n'
                    'from ..losses import j\n'
                    'def later():\n'
                    '    from dmae_mm import engine\n'
                    '    from ...engine.hooks import k\n')
    assert sorted(imports(path, tmp_path)) == [
        'a.b', 'c', 'd.e.f', 'd.e.g', 'dmae_mm.engine',
        'dmae_mm.engine.hooks.k', 'dmae_mm.models.losses.j',
        'dmae_mm.models.necks.i'
    ]


@pytest.mark.parametrize('importer, name, may', [
    ('models', 'dmae_mm.models.dmae.DMAE', True),
    ('models', 'dmae_mm.host.build', True),
    ('models', 'dmae_mm.__version__', True),
    ('models', 'dmae_mm.engine.hooks.TeacherHook', False),
    ('models', 'dmae_mm.engine', False),
    ('models', 'dmae_mm', False),  # that is all of it
    ('weights', 'dmae_mm.datasets.seeds', False),
    ('files', 'dmae_mm.messages.one_line', True),
])
def test_what_may_be_imported(importer, name, may):
    assert may_import(importer, name) is may


def test_each_folder_has_a_layer():
    there = {
        entry.stem
        for entry in PACKAGE.iterdir()
        if entry.suffix == '.py' or any(entry.rglob('*.py'))
    }
    assert there - {'__init__'} == set(LAYER)


def test_nothing_imports_from_a_higher_layer():
    # dmae_mm/__init__.py registers all there is.
    complain([(path, name) for path, name in all_imports(PACKAGE)
              if path != Path('dmae_mm/__init__.py') and
              name.split('.')[0] == 'dmae_mm'
              and not may_import(path.with_suffix('').parts[1], name)])


def test_the_package_does_not_need_what_is_around_it():
    complain([(path, name) for path, name in all_imports(PACKAGE)
              if name.split('.')[0] in ('examples', 'tools', 'studies',
                                        'tests')])


def test_hooks_are_hooks():
    """Each file beside them has a class that derives from ``...Hook``."""
    without = [
        path.name for path in (PACKAGE / 'engine' / 'hooks').glob('*.py')
        if path.name != '__init__.py' and not any(
            ast.unparse(base).endswith('Hook')
            for node in ast.parse(path.read_text()).body
            if isinstance(node, ast.ClassDef) for base in node.bases)
    ]
    assert not without


def test_no_file_name_occurs_twice():
    names = Counter(
        path.name for path in PACKAGE.rglob('*')
        if path.is_file() and '__pycache__' not in path.parts)
    assert [name for name in names if names[name] > 1] == ['__init__.py']


def test_tests_import_from_no_test_file():
    complain([(path, name) for path, name in all_imports(ROOT / 'tests')
              if any(part.startswith('test_') for part in name.split('.'))])
