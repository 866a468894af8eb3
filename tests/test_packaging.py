"""The distribution: what is in it, and whether it works where it is alone."""
import configparser
import shutil
import subprocess
import sys
import zipfile
from email import message_from_string
from pathlib import Path
from typing import List

import pytest
from packaging.requirements import Requirement

from tests.toys.models import ROOT
from tests.toys.runs import launch, write_toy_run

# What runs in the environment of the wheel, from a folder of its own.
PROBE = """
import importlib.metadata, os.path, sys
import dmae_mm
from mim.utils import get_installed_path
from mmengine.config import Config
from mmpretrain import get_model, list_models

inside = sys.prefix + os.sep
assert dmae_mm.__file__.startswith(inside), dmae_mm.__file__
assert {root!r} not in sys.path, sys.path
assert dmae_mm.__version__ == importlib.metadata.version('dmae_mm')
mim_root = get_installed_path('dmae_mm')
assert mim_root.startswith(inside), mim_root
assert os.path.basename(mim_root) == '_dmae_mm', mim_root
count = 0
for folder, _, files in os.walk(os.path.join(mim_root, '.mim', 'configs')):
    if '_base_' not in folder and '__pycache__' not in folder:
        for file in (name for name in files if name.endswith('.py')):
            assert 'model' in Config.fromfile(os.path.join(folder, file)), file
            count += 1
assert 'vit-s_dmae_in1k' in list_models('*dmae*')
model = get_model('vit-s_dmae_in1k')  # needs no teacher's file
assert model._config.filename.startswith(mim_root), model._config.filename
print(count, 'configs')
"""


def source_files(folder: Path) -> List[str]:
    return sorted(
        str(path.relative_to(folder)) for path in folder.rglob('*')
        if path.is_file() and '__pycache__' not in path.parts)


@pytest.fixture(scope='module')
def wheel(tmp_path_factory) -> Path:
    """Built as for publication: first an sdist, from it the wheel."""
    folder = tmp_path_factory.mktemp('build')
    checkout = folder / 'checkout'
    shutil.copytree(
        ROOT,
        checkout,
        ignore=shutil.ignore_patterns('.*', '__pycache__', '*.egg-info',
                                      'work_dirs', 'data'))
    before = source_files(checkout)
    launch([
        sys.executable, '-c', 'from setuptools import build_meta; '
        f'build_meta.build_sdist({str(folder)!r})'
    ], checkout)
    pip_wheel = [
        sys.executable, '-m', 'pip', 'wheel', '--no-deps',
        '--no-build-isolation', '--wheel-dir', folder
    ]
    sdist, = folder.glob('*.tar.gz')
    launch([*pip_wheel, sdist], folder)
    wheel, = folder.glob('*.whl')
    from_sdist = zipfile.ZipFile(wheel).namelist()
    wheel.unlink()
    launch([*pip_wheel, checkout], folder)
    assert zipfile.ZipFile(wheel).namelist() == from_sdist
    # Nothing is left in the checkout, where `mim` would find it.
    assert source_files(checkout) == before
    return wheel


def test_wheel_holds_the_package_and_what_mim_looks_for(wheel):
    """No studies and no tests, for example."""
    names = zipfile.ZipFile(wheel).namelist()
    wanted = {'_dmae_mm/.mim/model-index.yml'}
    for folder, root in (('dmae_mm', ''), ('configs', '_dmae_mm/.mim/'),
                         ('tools', '_dmae_mm/.mim/')):
        wanted.update(f'{root}{folder}/{file}'
                      for file in source_files(ROOT / folder))
    assert wanted == {name for name in names if '.dist-info/' not in name}
    # mim takes the first path for the root of the package.
    assert sorted(names)[0].startswith('_dmae_mm/.mim/')
    assert not any(name.endswith('entry_points.txt') for name in names)


def test_constraints_fit_the_requirements(wheel):
    """Each direct requirement is pinned, to a version that it admits."""
    pins = {}
    for line in (ROOT / 'constraints.txt').read_text().splitlines():
        if line and not line.startswith('#'):
            pin = Requirement(line)
            pins[pin.name] = str(pin.specifier).removeprefix('==')
    archive = zipfile.ZipFile(wheel)
    metadata, = (
        name for name in archive.namelist() if name.endswith('/METADATA'))
    fields = message_from_string(archive.read(metadata).decode())
    requirements = [
        Requirement(line) for line in fields.get_all('Requires-Dist')
    ]
    assert len(requirements) > 10
    for requirement in requirements:
        assert requirement.specifier.contains(pins[requirement.name])
    setup = configparser.ConfigParser()
    setup.read(ROOT / 'setup.cfg')
    assert set(fields.get_all('Provides-Extra')) == set(
        setup['options.extras_require'])


@pytest.mark.slow
def test_wheel_works_alone(wheel, tmp_path):
    """In an environment that has this wheel and borrows all other packages.

    A line in a .pth file adds a folder to the import path without running
    the .pth files there, so an editable dmae_mm in it stays out of sight.
    """
    environment = tmp_path / 'environment'
    launch([sys.executable, '-m', 'venv', '--without-pip', environment],
           tmp_path)
    python = environment / 'bin' / 'python'
    launch([
        sys.executable, '-m', 'pip', '--python', python, 'install',
        '--no-deps', wheel
    ], tmp_path)
    site_packages, = environment.glob('lib/python*/site-packages')
    borrowed = [path for path in sys.path if path.endswith('site-packages')]
    # MMEngine needs distutils, which Python 3.12 has from setuptools.
    (site_packages / 'borrowed.pth').write_text('\n'.join(
        [*borrowed, 'import _distutils_hack; _distutils_hack.add_shim()']))

    output = launch([python, '-c', PROBE.format(root=str(ROOT))], tmp_path)
    assert int(output.split(' configs')[0].split()[-1]) > 0

    output = launch([
        python, '-m', 'mim', 'search', 'dmae_mm', '--model', 'dmae', '--field',
        'published_top_1_accuracy', 'published_by'
    ], tmp_path)
    assert 'vit-b_dmae-mask95_in1k' in output and '83.6' in output

    config = write_toy_run(tmp_path / 'run')
    output = launch([
        python, '-m', 'mim', 'train', 'dmae_mm', config, '--work-dir', 'out',
        '--cfg-options', 'train_cfg.max_epochs=1'
    ], tmp_path / 'run')
    assert '_dmae_mm/.mim/tools/train.py' in output
    assert (tmp_path / 'run' / 'out' / 'epoch_1.pth').is_file()


def test_importing_needs_no_more_than_the_requirements():
    """An import of what only an extra installs would break plain installs."""
    extras = ['mim', 'onnx', 'onnxruntime', 'plotly', 'sklearn', 'skimage',
              'hypothesis', 'pytest']
    code = (f'import sys; sys.modules.update(dict.fromkeys({extras}, None)); '
            'import dmae_mm')
    subprocess.run([sys.executable, '-c', code], cwd=ROOT, check=True)


def test_python_started_beside_the_clone_imports_the_package(tmp_path):
    """Not an empty package made of the clone, which has the same name."""
    (tmp_path / 'dmae_mm').symlink_to(ROOT)
    code = 'import dmae_mm; print(dmae_mm.__version__)'
    result = subprocess.run([sys.executable, '-W', 'ignore', '-c', code],
                            cwd=tmp_path, capture_output=True, text=True)
    assert result.stdout.strip() == '0.1.0', result.stderr
