import pytest
import torch
from mmengine.registry import init_default_scope


@pytest.fixture(scope='package', autouse=True)
def _scope_and_threads():
    """As a Runner would look names up; one thread, since toys need no more."""
    init_default_scope('mmpretrain')
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
