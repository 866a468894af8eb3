"""Which steps are taken; compiling itself is what `make test WITH_OPS=1` does.
"""
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.toys.models import ROOT

SCRIPT = str(ROOT / 'tools' / 'install_mmcv_ops.py')


@pytest.fixture
def pip(monkeypatch, tmp_path):
    """A pip that compiles nothing, and mmcv's ops as it left them."""
    state = SimpleNamespace(calls=[], has_ops=False, fails=None, env=None)

    def run(command, env=None, capture_output=False):
        if command[1] == '-c':
            assert command[2] == 'import mmcv._ext'
            return SimpleNamespace(returncode=int(not state.has_ops))
        assert command[:3] == [sys.executable, '-m', 'pip']
        assert command[4:6] == ['-c', str(ROOT / 'constraints.txt')]
        state.calls.append(command[3])
        if command[3] == 'wheel':
            state.env = env
            folder = Path(command[command.index('--wheel-dir') + 1])
            (folder / 'onedl_mmcv-1.whl').write_text('ops')
        elif command[-1].endswith('.whl'):
            assert Path(command[-1]).read_text() == 'ops'
            state.has_ops = True
        return SimpleNamespace(returncode=int(state.fails == command[3]))

    monkeypatch.setattr(subprocess, 'run', run)
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    monkeypatch.setattr(sys, 'argv', ['install_mmcv_ops.py'])
    monkeypatch.delenv('CFLAGS', raising=False)
    return state


def cached(tmp_path: Path) -> list:
    return [path.relative_to(tmp_path) for path in tmp_path.rglob('*.*')
            if path.is_file()]


def test_compiles_once_for_these_versions(pip, tmp_path, capsys):
    runpy.run_path(SCRIPT, run_name='__main__')
    # What compiling needs, the wheel, and its installation.
    assert pip.calls == ['install', 'wheel', 'install']
    assert pip.env['MMCV_WITH_OPS'] == '1'
    assert pip.env['CFLAGS'].split() == ['-g0']
    assert 'only this time' in capsys.readouterr().out
    wheel, = cached(tmp_path)
    versions = wheel.parent.name
    python = f'cpython-{sys.version_info[0]}{sys.version_info[1]}'
    assert wheel.parts[0] == 'dmae_mm' and wheel.name == 'onedl_mmcv-1.whl'
    assert versions.startswith('mmcv2.') and python in versions
    assert 'torch2.' in versions

    # Ops that are there are left alone.
    pip.calls.clear()
    runpy.run_path(SCRIPT, run_name='__main__')
    assert pip.calls == [] and 'has its' in capsys.readouterr().out

    # Another environment takes the same wheel.
    pip.has_ops = False
    runpy.run_path(SCRIPT, run_name='__main__')
    assert pip.calls == ['install'] and pip.has_ops


def test_failed_compilation_leaves_nothing_behind(pip, tmp_path):
    pip.fails = 'wheel'
    with pytest.raises(SystemExit, match='pip said why above: .* wheel .*'):
        runpy.run_path(SCRIPT, run_name='__main__')
    assert cached(tmp_path) == [] and not pip.has_ops


def test_ops_that_cannot_be_loaded(pip, monkeypatch):
    run = subprocess.run

    def without_effect(*args, **kwargs):
        result = run(*args, **kwargs)
        pip.has_ops = False
        return result

    monkeypatch.setattr(subprocess, 'run', without_effect)
    with pytest.raises(SystemExit, match=r'onedl_mmcv-1.whl cannot be loaded'):
        runpy.run_path(SCRIPT, run_name='__main__')
