"""The packages this plugin plugs into: present, and new enough?"""
import importlib
from importlib.metadata import PackageNotFoundError, version

from packaging.version import Version

from .messages import one_line

# Oldest versions with everything used here. The original distributions
# (mmengine, mmcv, mmpretrain) and their maintained successors (onedl-mmengine,
# onedl-mmcv, onedl-mmpretrain) install the same modules, so the version of
# what is imported is checked, not the name of a distribution.
MINIMUM_VERSIONS = dict(
    mmengine='0.10.12', mmcv='2.3.6', mmpretrain='1.3.6', timm='1.0.31')
# The last versions of the originals.
LAST_ORIGINALS = dict(mmengine='0.10.7', mmcv='2.2.0', mmpretrain='1.2.0')

INSTALL_HINT = ('Install the OpenMMLab packages with '
                '`pip install "dmae_mm[mm]"`, or, from a clone of dmae_mm, '
                '`pip install -c constraints.txt -e ".[mm]"`; or activate the '
                'environment that the Makefile made: '
                '`source .venv/bin/activate`.')
# pip does not know that both install the same modules: what is left of either
# would be in the way of the other.
REPLACE_HINT = (
    'These are the original OpenMMLab packages, which are no longer '
    'maintained: beside setuptools 82 or newer they cannot read a config that '
    "is based on one of a package ('No module named pkg_resources'). Their "
    'maintained successors install the same modules:\n'
    '    pip uninstall --yes mmengine mmcv mmcv-lite mmpretrain '
    'onedl-mmengine onedl-mmcv onedl-mmpretrain\n'
    '    pip install "dmae_mm[mm]"\n'
    'From a clone of dmae_mm, the second is '
    '`pip install -c constraints.txt -e ".[mm]"`.')


def check_host_packages() -> None:
    """Import every host package and compare its version.

    Raises:
        ImportError: If one cannot be imported or is older than
            :data:`MINIMUM_VERSIONS`, as all of the original packages are.
            The message names every problem and the commands that mend it.
    """
    problems, hint = [], INSTALL_HINT
    for name, minimum in MINIMUM_VERSIONS.items():
        try:
            module = importlib.import_module(name)
        except Exception as error:  # a host package can also assert on import
            problems.append(f'`{name}` cannot be imported ({error})')
            continue
        installed = Version(module.__version__)
        if installed < Version(minimum):
            problems.append(f'`{name}` is {module.__version__}, but '
                            f'{minimum} or newer is needed')
            if name in LAST_ORIGINALS and installed <= Version(
                    LAST_ORIGINALS[name]):
                hint = REPLACE_HINT
    if problems:
        raise ImportError(
            f'dmae_mm needs mmengine, mmcv, mmpretrain and timm: '
            f'{"; ".join(problems)}. {hint}')


def import_models() -> None:
    """Import mmpretrain's models, with those of languages if it wants to.

    Raises:
        ImportError: If they cannot be imported. Beside transformers 5, where
            pycocotools is installed, they cannot.
    """
    try:
        importlib.import_module('mmpretrain.models')
    except Exception as error:
        try:
            installed = version('transformers')
        except PackageNotFoundError:
            raise error from None
        raise ImportError(
            f"mmpretrain's models cannot be imported ({one_line(error)}), and "
            f'transformers {installed} is installed. Where pycocotools is '
            'installed as well (as for mmdet), mmpretrain imports models of '
            'languages, which do not run with transformers 5: `pip uninstall '
            'transformers`, or use an environment of its own. dmae_mm reads '
            'files of transformers without it.') from error
