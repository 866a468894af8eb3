import importlib
import subprocess
import sys
import types

import pytest

from dmae_mm import host_packages


def fake_import(monkeypatch, versions):
    """Make imports yield modules of these versions; None is not installed."""

    def import_module(name):
        if versions[name] is None:
            raise ModuleNotFoundError(f'No module named {name!r}')
        return types.SimpleNamespace(__version__=versions[name])

    monkeypatch.setattr(importlib, 'import_module', import_module)


def test_what_is_installed_is_accepted():
    host_packages.check_host_packages()


@pytest.mark.parametrize('version', ['1.2.0', '1.3.6', '1.10.0rc1', '2.0'])
def test_new_enough(monkeypatch, version):
    fake_import(monkeypatch,
                dict(
                    mmengine='0.10.12',
                    mmcv='2.3.6',
                    mmpretrain=version,
                    timm='1.0.31'))
    host_packages.check_host_packages()


def test_every_problem_is_named_at_once(monkeypatch):
    fake_import(monkeypatch,
                dict(
                    mmengine='0.9.1',
                    mmcv=None,
                    mmpretrain='1.2.0',
                    timm='0.3.2'))
    with pytest.raises(ImportError) as error:
        host_packages.check_host_packages()
    for part in ('`mmengine` is 0.9.1, but 0.10.0 or newer is needed',
                 "`mmcv` cannot be imported (No module named 'mmcv')",
                 '`timm` is 0.3.2, but 1.0.31 or newer is needed',
                 'pip install "dmae_mm[mm]"'):
        assert part in str(error.value)
    assert 'mmpretrain`' not in str(error.value).split(': ', 1)[1].split(
        'Install')[0]


def test_importing_without_them_is_that_error():
    code = ('import sys; sys.modules["mmpretrain"] = None\n'
            'try:\n    import dmae_mm\n'
            'except ImportError as error:\n    print(error)')
    result = subprocess.run([sys.executable, '-W', 'ignore', '-c', code],
                            capture_output=True, text=True, check=True)
    assert '`mmpretrain` cannot be imported' in result.stdout
    assert 'pip install' in result.stdout
