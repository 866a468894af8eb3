"""How Sphinx builds the site: `make docs`, into build/docs."""
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from sphinx.addnodes import pending_xref  # noqa: E402

import dmae_mm  # noqa: E402

project = 'dmae_mm'
copyright = 'the authors of dmae_mm, Apache-2.0'
release = dmae_mm.__version__

extensions = [
    'myst_parser', 'sphinx.ext.autodoc', 'sphinx.ext.napoleon',
    'sphinx.ext.viewcode'
]
html_theme = 'furo'
html_title = f'dmae_mm {release}'
templates_path = []
exclude_patterns = []

# The anchors that the code host gives to headings, too.
myst_heading_anchors = 3
# Quotes and dashes of a page are code more often than not.
smartquotes = False

autodoc_member_order = 'bysource'
autodoc_typehints = 'none'  # The docstrings say them.
# What a hook or a module inherits is described where it comes from.
autodoc_inherit_docstrings = False
napoleon_use_rtype = False
napoleon_preprocess_types = True
# `{{_base_.x}}` of MMEngine's configs is no Python that a highlighter knows.
suppress_warnings = ['misc.highlighting_failure']

# Two pages are files of the root, where the code host looks for them.
OF_THE_ROOT = {'index': 'README.md', 'contributing': 'CONTRIBUTING.md'}


def read_page(app, name, source):
    """Put in the files of the root; let links lead where they lead there.

    A page says `../README.md` and the README `docs/data.md`, as is right in a
    checkout. Other files of the checkout become downloads.
    """
    text = source[0]
    if name in OF_THE_ROOT:
        file = ROOT / OF_THE_ROOT[name]
        app.env.note_dependency(str(file))
        text = re.sub(r'\]\((?![a-z]+:|#)', '](../', file.read_text()) + text
        text = text.replace('](../docs/', '](')
    for page, file in OF_THE_ROOT.items():
        text = text.replace(f'](../{file}', f']({page}.md')
    source[0] = text


def find_by_name(app, doctree):
    """A docstring says `Distillation`, without the module it is in."""
    for node in doctree.findall(pending_xref):
        if node.get('refdomain') == 'py':
            node['refspecific'] = True


def setup(app):
    app.connect('source-read', read_page)
    app.connect('doctree-read', find_by_name)
