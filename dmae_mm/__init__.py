"""DMAE for mmpretrain: importing this package registers all of it."""
from .host_packages import check_host_packages
from .version import __version__

check_host_packages()

from . import engine, models  # noqa: E402, F401

__all__ = ['__version__']
