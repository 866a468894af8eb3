"""What the Makefile installs, with a Python that only notes what it is asked.
"""
import configparser
import os
import shutil
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Dict, List

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from tests.toys.models import ROOT

SOME = '.[mm,quickstart]'
ALL = '.[mm,mim,mmdet,mmseg,onnx,quickstart,docs,report,shards,test,tiff]'

# cv2 is that of the package installed last; `bare` is a system without the
# libraries of the one with windows. `broken` breaks off an installation.
PYTHON = '''#!/bin/sh
echo "$*" >> log
case "$*" in
    '-m venv '*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
    '-c import cv2') [ ! -e bare ] || [ -e .venv/headless ] ;;
    *' opencv-python-headless') touch .venv/headless ;;
    '-m pip install '*) [ ! -e broken ] && rm -f .venv/headless ;;
esac
'''


@pytest.fixture
def folder(tmp_path) -> Path:
    for name in ('Makefile', 'setup.cfg', 'setup.py', 'pyproject.toml',
                 'constraints.txt'):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / 'python').write_text(PYTHON)
    (tmp_path / 'python').chmod(0o755)
    return tmp_path


def without_make() -> Dict[str, str]:
    """The environment of somebody who is not inside of `make test`."""
    return {key: value for key, value in os.environ.items()
            if not key.startswith(('MAKE', 'MFLAGS'))}


def make(folder: Path, *targets: str, fails: bool = False) -> List[str]:
    """Run make; what Python was asked for, but for questions."""
    log = folder / 'log'
    log.write_text('')
    result = subprocess.run(
        ['make', f'PYTHON={folder / "python"}', *targets],
        cwd=folder, env=without_make(), capture_output=True, text=True)
    assert (result.returncode != 0) == fails, result.stdout + result.stderr
    return [line for line in log.read_text().splitlines()
            if not line.startswith('-c ')]


def installed(asked: List[str]) -> List[str]:
    return [line.split()[-1] for line in asked if 'pip install' in line]


def test_the_quick_start_installs_what_it_needs_and_test_the_rest(folder):
    asked = make(folder, 'quickstart')
    assert asked == [
        '-m venv .venv', f'-m pip install -c constraints.txt -e {SOME}',
        'tools/quickstart.py --seed 0'
    ]
    assert installed(make(folder, 'study')) == []
    asked = make(folder, 'test')
    assert installed(asked) == [ALL]
    assert '-m venv .venv' not in asked and '-m pytest' in asked[-1]
    assert make(folder, 'docs')[0].startswith('-m sphinx ')
    for target in ('quickstart', 'test', 'test-slow', 'venv'):
        assert installed(make(folder, target)) == []


def test_all_packages_serve_the_quick_start(folder):
    assert installed(make(folder, 'test', 'quickstart')) == [ALL]
    assert make(folder, 'quickstart') == ['tools/quickstart.py --seed 0']
    asked = make(folder, 'venv', 'WITH_OPS=1')
    assert asked == ['tools/install_mmcv_ops.py']


def test_other_requirements_are_installed(folder):
    make(folder, 'test')
    with open(folder / 'constraints.txt', 'a') as file:
        file.write('# another\n')
    assert installed(make(folder, 'quickstart')) == [SOME]
    assert installed(make(folder, 'test')) == [ALL]


def test_an_interrupted_installation_is_made_anew(folder):
    make(folder, 'quickstart')
    (folder / 'broken').touch()
    assert installed(make(folder, 'test', fails=True)) == [ALL]
    (folder / 'broken').unlink()
    asked = make(folder, 'quickstart')
    assert asked[0] == '-m venv .venv' and installed(asked) == [SOME]


def test_a_system_without_windows_gets_opencv_without_them(folder):
    (folder / 'bare').touch()
    for target, extras in (('quickstart', SOME), ('test', ALL)):
        asked = make(folder, target)
        assert installed(asked) == [extras, 'opencv-python-headless']
        assert '-m pip uninstall --yes opencv-python' in asked


def read_setup() -> configparser.ConfigParser:
    setup = configparser.ConfigParser()
    setup.read(ROOT / 'setup.cfg')
    return setup


def supported_pythons() -> List[str]:
    """As the package says to the registry: '3.10' and so on."""
    return [
        line.split()[-1]
        for line in read_setup()['metadata']['classifiers'].splitlines()
        if line.startswith('Programming Language :: Python :: 3.')
    ]


def test_ci_tries_all_extras_with_every_python_that_readme_names():
    pythons = supported_pythons()
    command = subprocess.run(
        ['make', '-n', 'resolve'], cwd=ROOT, env=without_make(),
        capture_output=True, text=True, check=True).stdout
    assert command.split() == ['.ci/resolve', ALL[2:-1], *pythons]
    steps = (ROOT / '.ci' / 'run').read_text().splitlines()
    assert {'make resolve', 'make lint', 'make docs'} <= set(steps)
    extras = read_setup()['options.extras_require']
    assert set(ALL[2:-1].split(',')) == set(extras)
    assert (f'Python {pythons[0]} to {pythons[-1]}, '
            in (ROOT / 'README.md').read_text())


def test_pins_admit_every_python_that_is_supported():
    """Or their marker leaves it out; where the pinned version is installed."""
    checked = set()
    for line in (ROOT / 'constraints.txt').read_text().splitlines():
        if not line or line.startswith('#'):
            continue
        pin = Requirement(line)
        try:
            distribution = metadata.distribution(pin.name)
        except metadata.PackageNotFoundError:  # of an extra
            continue
        if not pin.specifier.contains(distribution.version):
            continue
        admitted = SpecifierSet(distribution.metadata['Requires-Python'])
        for python in supported_pythons():
            applies = not pin.marker or pin.marker.evaluate(
                {'python_version': python})
            assert not applies or admitted.contains(f'{python}.0'), line
        checked.add(pin.name)
    assert {'torch', 'numpy', 'filelock', 'pytest'} <= checked


# Pip fails where there is a file `broken`.
PIP = '''#!/bin/sh
case "$*" in
    '-m venv '*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
    '-m pip install --dry-run '*)
        echo "$*" >> "$LOG"
        [ ! -e "$LOG.broken" ] || { echo 'no such filelock'; exit 1; } ;;
esac
'''


def test_which_pythons_were_tried_is_said(tmp_path):
    def python(path: str, text: str = PIP) -> None:
        path = tmp_path / path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)

    def resolve() -> subprocess.CompletedProcess:
        env = dict(os.environ, LOG=str(tmp_path / 'log'),
                   PATH=f'{tmp_path / "bin"}:{os.environ["PATH"]}',
                   PYENV_ROOT=str(tmp_path))
        return subprocess.run(
            [ROOT / '.ci' / 'resolve', 'mm,test', '3.97', '3.98', '3.99'],
            env=env, capture_output=True, text=True)

    python('bin/python3.97')
    python('bin/python3.98', '#!/bin/sh\nexit 127\n')
    python('versions/3.98.1/bin/python')
    result = resolve()
    assert (result.returncode, result.stdout.splitlines()) == (0, [
        'Python 3.97: pip finds all packages',
        'Python 3.98: pip finds all packages',
        'Python 3.99: not on this machine, not tried'
    ])
    asked = (tmp_path / 'log').read_text().splitlines()
    assert len(asked) == 2
    assert all(line.endswith(' -c constraints.txt -e .[mm,test]')
               for line in asked)

    (tmp_path / 'log.broken').touch()
    result = resolve()
    assert (result.returncode, result.stdout.splitlines()) == (1, [
        'no such filelock', 'Python 3.97: pip cannot find all packages'
    ])
