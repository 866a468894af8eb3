"""Importing this skips a file of tests where the report cannot be drawn."""
import pytest

for package in ('jinja2', 'plotly'):
    pytest.importorskip(
        package, reason='the extra "report" is not installed')
