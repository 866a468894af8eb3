"""What the Makefile installs, with a Python that only notes what it is asked.
"""
import os
import shutil
import subprocess
from pathlib import Path
from typing import List

import pytest

from tests.toys.models import ROOT

SOME = '.[mm,quickstart]'
ALL = '.[mm,mim,mmdet,mmseg,quickstart,report,shards,test]'

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


def make(folder: Path, *targets: str, fails: bool = False) -> List[str]:
    """Run make; what Python was asked for, but for questions."""
    log = folder / 'log'
    log.write_text('')
    env = {key: value for key, value in os.environ.items()
           if not key.startswith(('MAKE', 'MFLAGS'))}
    result = subprocess.run(
        ['make', f'PYTHON={folder / "python"}', *targets],
        cwd=folder, env=env, capture_output=True, text=True)
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
