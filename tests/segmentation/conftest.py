import pytest
from mmengine.registry import init_default_scope

from tests.toys.ade20k import write_ade20k


@pytest.fixture(scope='package')
def ade20k(tmp_path_factory):
    """Folder of a tiny data set in ADE20K's layout."""
    return write_ade20k(tmp_path_factory.mktemp('ade20k'))


@pytest.fixture(scope='package', autouse=True)
def _scope_at_first():
    init_default_scope('mmpretrain')


@pytest.fixture(autouse=True)
def _scope_behind_each():
    """A runner of mmseg leaves its own."""
    yield
    init_default_scope('mmpretrain')
