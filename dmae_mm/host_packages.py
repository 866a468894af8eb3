"""The packages this plugin plugs into: present, and new enough?"""
import importlib

from packaging.version import Version

# Oldest versions with everything used here. Both the original distributions
# (mmengine, mmcv, mmpretrain) and their maintained successors
# (onedl-mmengine, onedl-mmcv, onedl-mmpretrain) install these import names,
# so the import, not the name of the distribution, is what is checked.
MINIMUM_VERSIONS = dict(
    mmengine='0.10.0', mmcv='2.0.1', mmpretrain='1.2.0', timm='1.0.31')

INSTALL_HINT = ('Install the OpenMMLab packages with '
                '`pip install "dmae_mm[mm]"`, or, from a clone of dmae_mm, '
                '`pip install -c constraints.txt -e ".[mm]"`; or activate the '
                'environment that the Makefile made: '
                '`source .venv/bin/activate`.')


def check_host_packages() -> None:
    """Import every host package and compare its version.

    Raises:
        ImportError: If one cannot be imported or is older than
            :data:`MINIMUM_VERSIONS`. The message names every problem and the
            command that mends it.
    """
    problems = []
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
    if problems:
        raise ImportError(
            f'dmae_mm needs mmengine, mmcv, mmpretrain and timm: '
            f'{"; ".join(problems)}. {INSTALL_HINT}')
