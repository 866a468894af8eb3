"""Importing this skips a test, or a file of tests, where mmseg is not there.

All of them give the same line, which pytest shows once.
"""
import pytest

pytest.importorskip('mmseg', reason='the extra "mmseg" is not installed')
