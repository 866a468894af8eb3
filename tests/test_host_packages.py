import configparser
import importlib
import subprocess
import sys
import types

import pytest

from dmae_mm import host_packages
from tests.toys.models import ROOT


def fake_import(monkeypatch, versions):
    """Make imports yield modules of these versions; None is not installed."""

    def import_module(name):
        if versions[name] is None:
            raise ModuleNotFoundError(f'No module named {name!r}')
        return types.SimpleNamespace(__version__=versions[name])

    monkeypatch.setattr(importlib, 'import_module', import_module)


def test_what_is_installed_is_accepted():
    host_packages.check_host_packages()


@pytest.mark.parametrize('version', ['1.3.6', '1.10.0rc1', '2.0'])
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
                    mmpretrain='1.3.6',
                    timm='0.3.2'))
    with pytest.raises(ImportError) as error:
        host_packages.check_host_packages()
    for part in ('`mmengine` is 0.9.1, but 0.10.12 or newer is needed',
                 "`mmcv` cannot be imported (No module named 'mmcv')",
                 '`timm` is 0.3.2, but 1.0.31 or newer is needed',
                 'pip install "dmae_mm[mm]"'):
        assert part in str(error.value)
    assert 'mmpretrain`' not in str(error.value).split(': ', 1)[1].split(
        'Install')[0]


ORIGINALS = dict(mmengine='0.10.7', mmcv='2.2.0', mmpretrain='1.2.0')


@pytest.mark.parametrize('originals', [
    ORIGINALS, *({name: ORIGINALS[name]} for name in ORIGINALS)])
def test_the_original_packages_are_refused(monkeypatch, originals):
    """Also one beside the successors of the others."""
    fake_import(
        monkeypatch,
        dict(host_packages.MINIMUM_VERSIONS, **originals))
    with pytest.raises(ImportError) as error:
        host_packages.check_host_packages()
    problems, commands = str(error.value).split('. These are the original ')
    assert problems.count('or newer is needed') == len(originals)
    for name, version in originals.items():
        assert f'`{name}` is {version}, but ' in problems
    assert 'pkg_resources' in commands
    uninstall, install = [line.split() for line in commands.splitlines()
                          if line.startswith('    pip ')]
    assert {*ORIGINALS, 'mmcv-lite', 'onedl-mmengine'} < {*uninstall}
    assert install == ['pip', 'install', '"dmae_mm[mm]"']


def test_older_successors_are_replaced_by_pip_itself(monkeypatch):
    fake_import(monkeypatch,
                dict(host_packages.MINIMUM_VERSIONS, mmpretrain='1.3.0'))
    with pytest.raises(ImportError, match='1.3.6 or newer') as error:
        host_packages.check_host_packages()
    assert 'uninstall' not in str(error.value)


def test_the_extra_asks_for_what_is_checked():
    config = configparser.ConfigParser()
    config.read(ROOT / 'setup.cfg')
    asked = dict(
        line.removeprefix('onedl-').split('>=')
        for line in config['options.extras_require']['mm'].split())
    assert dict(asked, timm='1.0.31') == host_packages.MINIMUM_VERSIONS


def test_importing_without_them_is_that_error():
    code = ('import sys; sys.modules["mmpretrain"] = None\n'
            'try:\n    import dmae_mm\n'
            'except ImportError as error:\n    print(error)')
    result = subprocess.run([sys.executable, '-W', 'ignore', '-c', code],
                            capture_output=True, text=True, check=True)
    assert '`mmpretrain` cannot be imported' in result.stdout
    assert 'pip install' in result.stdout


def test_models_that_cannot_be_imported(monkeypatch):
    """As mmpretrain's, beside transformers 5 and pycocotools."""

    def import_module(name):
        raise TypeError('NoneType takes no arguments')

    monkeypatch.setattr(importlib, 'import_module', import_module)
    monkeypatch.setattr(host_packages, 'version', lambda name: '5.24.0')
    with pytest.raises(ImportError, match='transformers 5.24.0 is installed.*'
                       'pip uninstall transformers'):
        host_packages.import_models()

    def no_version(name):
        raise host_packages.PackageNotFoundError(name)

    monkeypatch.setattr(host_packages, 'version', no_version)
    with pytest.raises(TypeError, match='NoneType takes no'):
        host_packages.import_models()
