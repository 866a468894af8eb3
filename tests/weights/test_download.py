"""A URL is fetched once, and a download that fails leaves nothing."""
import hashlib
import io
import os
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest
import safetensors.torch
import torch

from dmae_mm.weights import read_tensor_file
from dmae_mm.weights.download import checksum_in_name, local_path


def toy_file(value: float) -> bytes:
    buffer = io.BytesIO()
    torch.save(dict(model=dict(weight=torch.full((2, ), value))), buffer)
    return buffer.getvalue()


def kept(server):
    return sorted(
        path.name for path in server.hub.rglob('*')
        if path.is_file() and path.name != '.lock')


def value(url):
    return read_tensor_file(url).tensors['weight'][0].item()


def test_fetched_once(server):
    server.files['/vit.pth'] = toy_file(1.)
    url = server.url + '/vit.pth'
    file = read_tensor_file(url)
    assert file.source == url
    assert file.sha256 == hashlib.sha256(server.files['/vit.pth']).hexdigest()
    server.files.clear()
    assert value(url) == 1.
    assert server.requests == {'/vit.pth': 1}
    assert kept(server) == ['vit.pth']


def test_equal_names_at_different_addresses(server):
    server.files.update({'/a/x.pth': toy_file(1.), '/b/x.pth': toy_file(2.)})
    assert value(server.url + '/a/x.pth') == 1.
    assert value(server.url + '/b/x.pth') == 2.


def test_query_is_not_part_of_the_name(server):
    server.files['/a.safetensors?download=true'] = safetensors.torch.save(
        dict(weight=torch.full((2, ), 3.)))
    assert value(server.url + '/a.safetensors?download=true') == 3.


def test_checksum_in_the_name(server):
    content = toy_file(1.)
    right = hashlib.sha256(content).hexdigest()[:8]
    wrong = 'abcdef12'
    server.files.update({
        f'/vit_20220101-{right}.pth': content,
        f'/vit_20220101-{wrong}.pth': content
    })
    assert value(f'{server.url}/vit_20220101-{right}.pth') == 1.
    with pytest.raises(OSError) as error:
        value(f'{server.url}/vit_20220101-{wrong}.pth')
    assert wrong in str(error.value) and right in str(error.value)
    assert kept(server) == [f'vit_20220101-{right}.pth']


@pytest.mark.parametrize('name, digits', [
    ('vit-8f5d5d2b.pth', '8f5d5d2b'),
    ('vit-' + 'a1' * 32 + '.safetensors', 'a1' * 32),
    ('vit-20240131.pth', None),
    ('vit-8f5d5d2.pth', None),
    ('mae-pretrain.pth', None),
    ('vit-8F5D5D2B.pth', None),
])
def test_what_is_a_checksum(name, digits):
    assert checksum_in_name(name) == digits


def test_not_found(server):
    with pytest.raises(OSError, match='x.pth cannot be downloaded: .*404'):
        value(server.url + '/x.pth')
    assert kept(server) == []


def test_no_file_name(server):
    with pytest.raises(FileNotFoundError, match='without the name of a file'):
        value(server.url + '/')


def test_nobody_answers(server):
    with socket.socket() as unused:
        unused.bind(('127.0.0.1', 0))
        url = f'http://127.0.0.1:{unused.getsockname()[1]}/x.pth'
        with pytest.raises(OSError, match='cannot be downloaded'):
            value(url)
    assert kept(server) == []


def test_broken_off_then_complete(server):
    server.files['/vit.pth'] = toy_file(1.)
    server.break_off_after = 100
    with pytest.raises(OSError, match='100 of .* bytes arrived'):
        value(server.url + '/vit.pth')
    assert kept(server) == []
    # As of a process that was killed.
    folder = next(server.hub.rglob('.lock')).parent / '.writing-x'
    folder.mkdir()
    (folder / 'vit.pth').touch()
    server.break_off_after = None
    assert value(server.url + '/vit.pth') == 1.
    assert not folder.exists()


def test_damaged_download_is_named_with_its_place(server):
    server.files['/vit.pth'] = toy_file(1.)[:100]
    with pytest.raises(ValueError) as error:
        value(server.url + '/vit.pth')
    assert f'{server.url}/vit.pth (kept as {server.hub}' in str(error.value)


def test_length_is_not_always_announced(server):
    server.send_length = False
    server.files['/vit.pth'] = toy_file(1.)
    assert value(server.url + '/vit.pth') == 1.


def test_many_at_once(server):
    """As the ranks of a run do: one of them downloads."""
    server.files['/vit.pth'] = toy_file(1.)
    with ThreadPoolExecutor(8) as pool:
        values = list(pool.map(value, [server.url + '/vit.pth'] * 8))
    assert values == [1.] * 8
    assert server.requests == {'/vit.pth': 1}


def test_many_at_once_all_fail(server):
    """No rank waits for one that has given up."""

    def fail(_):
        with pytest.raises(OSError, match='404'):
            value(server.url + '/x.pth')
        return True

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(fail, range(4))) == [True] * 4


def test_no_lock_where_the_file_is_there(server):
    """Whoever may read the folder needs no right to write to it."""
    server.files['/vit.pth'] = toy_file(1.)
    value(server.url + '/vit.pth')
    for lock in server.hub.rglob('.lock'):
        os.remove(lock)
    assert value(server.url + '/vit.pth') == 1.
    assert not list(server.hub.rglob('.lock'))


@pytest.mark.parametrize('digits', [8, 0])
def test_what_torch_hub_has_fetched(server, digits):
    """It is taken if its name proves that it is this file."""
    content = toy_file(1.)
    checksum = hashlib.sha256(content).hexdigest()[:digits]
    name = f'weights-{checksum or "20260101"}.pth'
    server.files[f'/{name}'] = toy_file(1.) if digits else toy_file(2.)
    (server.hub / 'checkpoints').mkdir(parents=True)
    fetched = server.hub / 'checkpoints' / name
    fetched.write_bytes(content)
    weight = read_tensor_file(f'{server.url}/{name}').tensors['weight']
    assert weight.tolist() == ([1, 1] if digits else [2, 2])
    assert server.requests[f'/{name}'] == (not digits)
    # What was damaged since then is fetched anew.
    if digits:
        fetched.write_bytes(toy_file(3.))
        read_tensor_file(f'{server.url}/{name}')
        assert server.requests[f'/{name}'] == 1


def test_a_folder_says_what_is_in_it(tmp_path):
    (tmp_path / 'config.json').write_text('{}')
    with pytest.raises(FileNotFoundError, match='is a folder, without'):
        local_path(str(tmp_path))
    (tmp_path / 'model.safetensors').write_text('')
    with pytest.raises(FileNotFoundError) as error:
        local_path(str(tmp_path))
    assert str(error.value) == (
        f'The checkpoint {tmp_path} is a folder. Give the path of a file in '
        f'it: {tmp_path}/model.safetensors.')


def test_a_config_is_no_checkpoint(tmp_path):
    with pytest.raises(ValueError, match='config, not a checkpoint'):
        local_path(str(tmp_path / 'config.py'))
