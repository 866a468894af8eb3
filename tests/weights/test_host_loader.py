"""MMEngine's loader of checkpoints is ours, whatever a name begins with."""
import os

import mmengine.runner.checkpoint
import pytest
import torch
from mmengine.runner import CheckpointLoader

from dmae_mm.weights import host_loader
from tests.toys.hostile import Call

KNOWN = ['http://', 'https://', 'modelzoo://', 'torchvision://',
         'open-mmlab://', 'openmmlab://', 'mmcls://', 's3://', 'petrel://',
         'x:s3://', 'pavi://', '']
load = CheckpointLoader.load_checkpoint


def test_no_loader_of_the_host_is_left():
    assert len(CheckpointLoader._schemes) == 11
    for loader in CheckpointLoader._schemes.values():
        assert loader.__module__ == host_loader.__name__
    for scheme in KNOWN:
        loader = CheckpointLoader._get_checkpoint_loader(f'{scheme}x')
        assert loader.__module__ == host_loader.__name__
        # Its name is part of a line in the log.
        theirs = getattr(mmengine.runner.checkpoint, loader.__name__)
        assert theirs is not loader


class Backend:

    def get(self, name):
        with open(name.split('://')[1], 'rb') as file:
            return file.read()


@pytest.fixture
def names(server, tmp_path, monkeypatch):  # noqa: F811
    """A hostile and a good file by all the names that they can have."""
    monkeypatch.chdir(tmp_path)
    files = dict(
        good=dict(state_dict={'backbone.a': torch.ones(2)}),
        hostile=dict(state_dict={'backbone.a': Call(os.mkdir, 'ran')}))
    table = {}
    for name, content in files.items():
        torch.save(content, name)
        with open(name, 'rb') as file:
            server.files[f'/{name}.pth'] = file.read()
        table[name] = f'{server.url}/{name}.pth'
    for lookup in ('get_torchvision_models', 'get_external_models',
                   'get_mmcls_models'):
        monkeypatch.setattr(host_loader, lookup, lambda: table)
    monkeypatch.setattr(host_loader, 'get_file_backend',
                        lambda name, backend_args: Backend())
    return {
        scheme: f'{server.url}/{{}}.pth'
        if scheme == 'http://' else f'{scheme}{{}}'
        for scheme in KNOWN if scheme not in ('https://', 'pavi://')
    }


@pytest.mark.parametrize('scheme', [
    scheme for scheme in KNOWN if scheme not in ('https://', 'pavi://')])
def test_each_scheme(names, scheme):
    weights = load(names[scheme].format('good'))['state_dict']
    name = 'a' if scheme == 'mmcls://' else 'backbone.a'
    assert weights[name].tolist() == [1, 1]
    with pytest.raises(ValueError, match='it asks for posix.mkdir'):
        load(names[scheme].format('hostile'))
    assert not os.path.exists('ran')


@pytest.mark.parametrize('name, message', [
    ('pavi://x', 'is on a PAVI server. Fetch it'),
    ('torchvision://resnet5', 'Close are resnet50'),
    ('mmcls://none-such-9', 'Give the path of a file'),
    ('weights.safetensors', 'which MMEngine does not read'),
])
def test_what_cannot_be_fetched(name, message):
    with pytest.raises(ValueError, match=message):
        load(name)


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match='gone.pth does not exist'):
        load(str(tmp_path / 'gone.pth'))


def test_home_and_devices(tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    torch.save(dict(a=torch.ones(2)), tmp_path / 'file.pth')
    for device in ('meta', torch.device('meta'), lambda storage, _: storage):
        expected = 'cpu' if callable(device) else 'meta'
        assert load('~/file.pth', device)['a'].device.type == expected
    assert load('~/file.pth')['a'].device.type == 'cpu'
