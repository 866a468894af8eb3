import contextlib
import io

with contextlib.redirect_stdout(io.StringIO()):
    # It prints that an optional package, OneDL, is not installed.
    import mmpretrain.datasets  # noqa: F401

from .class_folders import EXTENSIONS, read_class_folders  # noqa: E402
from .image_subset import ImageSubset  # noqa: E402

__all__ = ['EXTENSIONS', 'ImageSubset', 'read_class_folders']
