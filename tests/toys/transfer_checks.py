"""Runs of tools/check_transfer.py that several tests make."""
import runpy

import pytest
import torch
from mmengine.config import Config
from mmpretrain.registry import MODELS

from tests.toys.models import ROOT, STUDENT, TOY_MODEL
from tests.toys.models import classifier

SCRIPT = str(ROOT / 'tools' / 'check_transfer.py')
MAIN = runpy.run_path(SCRIPT)['main']


def trained(cfg):
    """A pre-trained model's weights, of values like no initialisation's."""
    generator = torch.Generator().manual_seed(0)
    return {
        name: .02 * torch.randn(tensor.shape, generator=generator)
        for name, tensor in MODELS.build(cfg).state_dict().items()
    }


def write_config(model, scope='mmpretrain', **options):
    Config(dict(model=model, default_scope=scope, **options)).dump('cfg.py')
    return 'cfg.py'


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """In the current folder: a classifier's config and a DMAE's weights."""
    monkeypatch.chdir(tmp_path)
    state = trained(TOY_MODEL)
    torch.save(dict(state_dict=state, optimizer={}, meta={}), 'dmae.pth')
    init_cfg = dict(type='Pretrained', checkpoint='x', prefix='backbone.')
    write_config(classifier(STUDENT, backbone=dict(init_cfg=init_cfg)))
    return state


def check(capsys, *argv):
    """What the command prints when all arrived."""
    MAIN([str(word) for word in argv])
    return capsys.readouterr().out.splitlines()


def refused(capsys, *argv):
    """The table and the error of a run that ends with 1."""
    with pytest.raises(SystemExit) as stop:
        MAIN([str(word) for word in argv])
    assert isinstance(stop.value.code, str)  # Python prints it, and exits 1
    assert '\n' not in stop.value.code
    assert stop.value.code.startswith('error: ')
    return capsys.readouterr().out.splitlines(), stop.value.code[7:]


def options(**changes):
    return [
        '--cfg-options', *(f'model.backbone.{name}={value}'
                           for name, value in changes.items())
    ]
