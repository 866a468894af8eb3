"""Adds to the wheel what `mim` looks for; all else is in setup.cfg."""
import atexit
import shutil
import tempfile
from pathlib import Path

from setuptools import setup
from setuptools.command.build import build
from setuptools.command.build_py import build_py
from setuptools.command.egg_info import egg_info

SCRATCH = tempfile.mkdtemp(prefix='dmae_mm-build-')
atexit.register(shutil.rmtree, SCRATCH, ignore_errors=True)


class BuildOutside(build):
    """Builds outside the checkout.

    A folder `build` left behind by an earlier build would add to the wheel
    files that have since been deleted.
    """

    def initialize_options(self) -> None:
        super().initialize_options()
        self.build_base = SCRATCH


class EggInfoOutside(egg_info):
    """Describes the distribution outside the checkout.

    Where the checkout is on the import path, `mim` would take a folder
    `dmae_mm.egg-info` there for the installed distribution.
    """

    def initialize_options(self) -> None:
        super().initialize_options()
        self.egg_base = SCRATCH


class BuildWithMimFiles(build_py):
    """Copies configs, tools and model-index.yml to `_dmae_mm/.mim`.

    `mim` takes as the root of an installed package the first path in the
    wheel's RECORD, which is sorted. `dmae_mm/` comes after
    `dmae_mm-x.y.z.dist-info/`, `_dmae_mm/` comes before. For the same
    reason there must not be a console script, whose path comes first of all.
    """

    def run(self) -> None:
        super().run()
        if self.editable_mode:  # the root is then the checkout itself
            return
        source = Path(__file__).parent
        target = Path(self.build_lib, '_dmae_mm', '.mim')
        for folder in ('configs', 'tools'):
            shutil.copytree(
                source / folder,
                target / folder,
                ignore=shutil.ignore_patterns('__pycache__', '*.pyc'),
                dirs_exist_ok=True)
        shutil.copy(source / 'model-index.yml', target)


setup(
    cmdclass=dict(
        build=BuildOutside,
        build_py=BuildWithMimFiles,
        egg_info=EggInfoOutside))
