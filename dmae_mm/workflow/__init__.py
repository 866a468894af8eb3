"""From a folder of images to a small model in use: `dmae_mm.distill`.

`distill.py` has the steps in their order; each of them is in a file here, or
in a lower layer.
"""
from .derive import Derived, derive
from .readable_config import readable_config

__all__ = ['Derived', 'derive', 'readable_config']
