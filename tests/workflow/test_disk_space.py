"""Checkpoints that have no room are refused before anything is read."""
import shutil
from collections import namedtuple
from types import SimpleNamespace

import pytest
import torch

from dmae_mm.files import CannotWrite
from dmae_mm.host import build, without_teachers
from dmae_mm.workflow.disk_space import check_disk_space, checkpoint_sizes
from tests.toys.derived import toy_derive


@pytest.fixture
def cfg(tmp_path):
    survey, student = SimpleNamespace(root=''), SimpleNamespace(name='s')
    cfg = toy_derive(survey, [], student, epochs=5).config
    cfg.work_dir = str(tmp_path / 'not' / 'there')
    return cfg


def test_a_checkpoint_has_weights_and_state(cfg, tmp_path):
    """As large as PyTorch's own, but for names."""
    size, count = checkpoint_sizes(cfg)
    assert count == 4  # three are kept, and one is being written
    model = build(without_teachers(cfg.model), 'student')
    optimizer = torch.optim.AdamW(
        [one for one in model.parameters() if one.requires_grad])
    sum(one.sum() for one in model.parameters()).backward()
    optimizer.step()
    torch.save((model.state_dict(), optimizer.state_dict()),
               tmp_path / 'all.pth')
    assert size < (tmp_path / 'all.pth').stat().st_size < 1.6 * size


def test_what_changes_the_room(cfg):
    size, _ = checkpoint_sizes(cfg)
    cfg.optim_wrapper.optimizer.type = 'SGD'
    assert checkpoint_sizes(cfg)[0] == size * 2 / 3
    cfg.custom_hooks.append(dict(type='EMAHook'))
    assert checkpoint_sizes(cfg)[0] == size
    cfg.default_hooks.checkpoint.max_keep_ckpts = -1  # all of them
    assert checkpoint_sizes(cfg)[1] == 6
    cfg.default_hooks.checkpoint.interval = 2
    assert checkpoint_sizes(cfg)[1] == 3


def test_too_little_room(cfg, monkeypatch):
    size, count = checkpoint_sizes(cfg)
    usage = namedtuple('usage', 'free')
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: usage(size * count))
    check_disk_space(cfg)
    monkeypatch.setattr(shutil, 'disk_usage',
                        lambda path: usage(size * count - 1))
    with pytest.raises(CannotWrite, match='4 checkpoints of about .* [kM]B '
                       'need .* free. Give --out on another disk'):
        check_disk_space(cfg)
