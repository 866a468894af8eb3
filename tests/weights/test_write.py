"""A checkpoint is written whole or not at all."""
import os

import pytest
import safetensors
import torch
from mmengine.runner import CheckpointLoader

from dmae_mm.weights import read_tensor_file, write_tensor_file

META = dict(source='a.pth', not_carried_over=['epoch'])


def files_below(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob('*'))


@pytest.mark.parametrize('name', ['a.pth', 'new/folder/a.safetensors'])
def test_what_is_written_is_read_back(tmp_path, name):
    base = torch.rand(100, 4)
    tensors = dict(
        view=base[3:5],
        transposed=base.t(),
        again=base,
        half=torch.rand(2).half(),
        scalar=torch.tensor(2),
        parameter=torch.nn.Parameter(torch.ones(1)))
    path = tmp_path / name
    write_tensor_file(str(path), tensors, META)
    read = read_tensor_file(str(path)).tensors
    assert read.keys() == tensors.keys()
    for key, tensor in tensors.items():
        assert torch.equal(read[key], tensor)
        assert read[key].dtype == tensor.dtype
        assert read[key].is_contiguous() and not read[key].requires_grad
    assert read['view'].untyped_storage().nbytes() == 2 * 4 * 4
    assert [p for p in tmp_path.rglob('*') if p.is_file()] == [path]


def test_meta(tmp_path):
    path = str(tmp_path / 'a.pth')
    write_tensor_file(path, dict(a=torch.ones(1)), META)
    assert CheckpointLoader.load_checkpoint(path)['meta'] == META
    path = str(tmp_path / 'a.safetensors')
    write_tensor_file(path, dict(a=torch.ones(1)), META)
    with safetensors.safe_open(path, 'pt') as file:
        assert file.metadata() == dict(
            source='a.pth', not_carried_over='["epoch"]')


def test_overwriting_is_asked_for(tmp_path):
    path = tmp_path / 'a.pth'
    write_tensor_file(str(path), dict(a=torch.ones(1)), META)
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match='a.pth exists already'):
        write_tensor_file(str(path), dict(a=torch.zeros(1)), META)
    assert path.read_bytes() == before
    write_tensor_file(str(path), dict(a=torch.zeros(1)), META, overwrite=True)
    assert read_tensor_file(str(path)).tensors['a'] == 0


@pytest.mark.parametrize('existing', [False, True])
def test_failure_leaves_everything_as_it_was(tmp_path, monkeypatch, existing):
    path = tmp_path / 'a.pth'
    if existing:
        write_tensor_file(str(path), dict(a=torch.ones(1)), META)
    before = files_below(tmp_path), existing and path.read_bytes()

    def disk_is_full(content, name):
        with open(name, 'wb') as file:
            file.write(b'half of it')
        raise OSError('No space left on device')

    monkeypatch.setattr(torch, 'save', disk_is_full)
    with pytest.raises(OSError, match='No space left'):
        write_tensor_file(str(path), dict(a=torch.ones(1)), META, True)
    assert (files_below(tmp_path), existing and path.read_bytes()) == before


@pytest.mark.parametrize('name, error', [
    ('a.txt', ValueError),
    ('a', ValueError),
    ('folder.pth', FileExistsError),
])
def test_illegal_destination(tmp_path, name, error):
    (tmp_path / 'folder.pth').mkdir()
    with pytest.raises(error, match=name):
        write_tensor_file(
            str(tmp_path / name), dict(a=torch.ones(1)), META, overwrite=True)
    assert files_below(tmp_path) == ['folder.pth']


def test_permissions_are_those_of_a_new_file(tmp_path):
    (tmp_path / 'plain').touch()
    write_tensor_file(str(tmp_path / 'a.pth'), dict(a=torch.ones(1)), META)
    assert os.stat(tmp_path / 'a.pth').st_mode == os.stat(
        tmp_path / 'plain').st_mode
