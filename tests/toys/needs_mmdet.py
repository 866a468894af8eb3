"""Importing this skips a test, or a file of tests, where mmdet cannot run.

All of them give the same line, which pytest shows once.
"""
import importlib

import pytest

try:
    importlib.import_module('mmcv._ext')
    importlib.import_module('mmdet')
except ImportError as error:
    pytest.skip(
        'detection needs mmdet and mmcv with compiled operators: '
        f'make test WITH_OPS=1 ({error})',
        allow_module_level=True)
