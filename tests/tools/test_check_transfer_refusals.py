"""The command: files and configs that it cannot use, without a traceback."""
import argparse
import os
import sys

import pytest
import torch

from tests.toys.transfer_checks import check, refused, toy, write_config

__all__ = ['toy']


class Payload:

    def __reduce__(self):
        return os.mkdir, ('executed', )


@pytest.mark.parametrize('name, message', [
    ('missing.pth', 'The checkpoint missing.pth does not exist'),
    ('truncated.pth', 'The checkpoint truncated.pth cannot be read'),
    ('text.pth', 'The checkpoint text.pth cannot be read'),
    ('empty.pth', 'The checkpoint empty.pth holds no named tensors'),
    ('hostile.pth', 'The checkpoint hostile.pth is refused: it asks for'),
    ('model.pth', "model.pth keeps its weights under 'model', where MMEngine"),
    ('x.safetensors', 'x.safetensors is a .safetensors file, which MMEngine'),
])
def test_files_that_cannot_be_used(toy, capsys, name, message):
    with open('dmae.pth', 'rb') as whole, open('truncated.pth', 'wb') as file:
        file.write(whole.read()[:20000])
    with open('text.pth', 'w') as file:
        file.write('weights')
    torch.save(dict(state_dict={}), 'empty.pth')
    torch.save(dict(state_dict=toy, meta=Payload()), 'hostile.pth')
    torch.save(dict(model=toy), 'model.pth')
    open('x.safetensors', 'wb').close()
    table, error = refused(capsys, 'cfg.py', name)
    assert table == [] and error.startswith(message)
    assert not os.path.exists('executed')


def test_a_file_with_a_command_line_is_none(toy, capsys):
    """MMEngine alone would unpickle it."""
    torch.save(dict(state_dict=toy, args=argparse.Namespace()), 'args.pth')
    assert check(capsys, 'cfg.py', 'args.pth')[-1].startswith('All 52 ')


@pytest.mark.parametrize('text, message', [
    (None, "There is no config 'cfg.py'."),
    ('model = (', 'The config cfg.py cannot be read: '),
    ('model = dict(type="X")', 'The config cfg.py has no model.backbone.'),
    ('model = dict(backbone=dict(type="X"))',
     "The config cfg.py has default_scope=None. Known are 'mmpretrain', "),
    ('model = dict(backbone=dict(type="X"))\ndefault_scope = "mmpose"',
     "The config cfg.py has default_scope='mmpose'. Known are"),
    ('model = dict(type="ImageClassifier", backbone=dict(type="X"))\n'
     'default_scope = "mmpretrain"',
     "The model of cfg.py cannot be built: KeyError: 'X is not in the"),
])
def test_configs_that_cannot_be_used(toy, capsys, text, message):
    os.remove('cfg.py')
    if text is not None:
        with open('cfg.py', 'w') as file:
            file.write(text)
    table, error = refused(capsys, 'cfg.py', 'dmae.pth')
    assert table == [] and error.startswith(message)


def test_mmdet_without_ops(toy, capsys, monkeypatch):
    write_config(dict(type='MaskRCNN', backbone=dict(type='X')), 'mmdet')
    monkeypatch.setitem(sys.modules, 'mmdet.models', None)
    _, error = refused(capsys, 'cfg.py', 'dmae.pth')
    assert error.startswith('mmdet cannot be imported (ModuleNotFoundError')
    assert error.endswith('`make venv WITH_OPS=1` installs both.')
