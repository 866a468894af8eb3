"""Damaged files are named as such, and no file makes anything run."""
import argparse
import pickle
import threading
import zipfile

import pytest
import safetensors.torch
import torch

from dmae_mm.weights import read_tensor_file
from tests.toys.hostile import PAYLOADS

CONTENT = dict(model={
    f'blocks.{i}.weight': torch.full((8, 8), float(i))
    for i in range(4)
})


@pytest.fixture
def marker(tmp_path):
    return tmp_path / 'code-from-the-file-ran'


def refused(path, name):
    with pytest.raises(ValueError) as error:
        read_tensor_file(str(path))
    assert f'{path} is refused: it asks for ' in str(error.value)
    assert name in str(error.value).split(', and building')[0]


@pytest.mark.filterwarnings('ignore:Detected pickle protocol')
@pytest.mark.parametrize('protocol', [2, 4])
@pytest.mark.parametrize('kind', ['zip', 'legacy', 'pickle'])
@pytest.mark.parametrize('name', PAYLOADS)
def test_hostile_file_is_refused(tmp_path, marker, kind, name, protocol):
    path = tmp_path / 'hostile.pth'
    payload = PAYLOADS[name](marker)
    if kind == 'pickle':
        path.write_bytes(pickle.dumps(payload, protocol))
        # The payload works: so would it where files are simply unpickled.
        pickle.loads(path.read_bytes())
        assert marker.exists()
        marker.unlink()
    else:
        torch.save(
            dict(CONTENT, args=payload),
            path,
            pickle_protocol=protocol,
            _use_new_zipfile_serialization=kind == 'zip')
    refused(path, name)
    assert not marker.exists()


def test_hostile_file_among_the_weights(tmp_path, marker):
    path = tmp_path / 'hostile.pth'
    torch.save(dict(model={'a': PAYLOADS['exec'](marker)}), path)
    refused(path, 'exec')
    assert not marker.exists()


def test_what_the_process_allows_does_not_count(tmp_path, marker):
    """Anyone may have followed torch's advice to allow a name."""
    path = tmp_path / 'hostile.pth'
    with torch.serialization.safe_globals([exec, getattr]):
        before = set(torch.serialization.get_safe_globals())
        torch.save(dict(CONTENT, args=PAYLOADS['exec'](marker)), path)
        refused(path, 'exec')
        torch.save(dict(CONTENT, args=PAYLOADS['getattr'](marker)), path)
        refused(path, 'getattr')
        assert set(torch.serialization.get_safe_globals()) == before
    assert not marker.exists()


def test_threads_do_not_disturb_each_other(tmp_path):
    path = tmp_path / 'file.pth'
    torch.save(dict(CONTENT, args=argparse.Namespace(a=1)), path)
    before, read = set(torch.serialization.get_safe_globals()), []

    def read_often():
        for _ in range(20):
            read.append(read_tensor_file(str(path)).ignored)

    threads = [threading.Thread(target=read_often) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert read == [['args']] * 80
    assert set(torch.serialization.get_safe_globals()) == before


def test_whole_models_are_refused_by_name(tmp_path):
    path = tmp_path / 'model.pth'
    torch.save(torch.nn.Linear(1, 1), path)
    refused(path, 'torch.nn.modules.linear.Linear')


def test_distributed_tensors_are_refused(tmp_path):
    path = tmp_path / 'file.pth'
    path.write_bytes(b'\x80\x02ctorch.distributed.tensor\nDTensor\n.')
    refused(path, 'torch.distributed.tensor')


@pytest.mark.filterwarnings('ignore:Detected pickle protocol')
def test_harmless_file_of_another_pickle_protocol(tmp_path):
    path = tmp_path / 'file.pth'
    torch.save(CONTENT, path, pickle_protocol=4)
    with pytest.raises(ValueError, match='is pickled with protocol 4, but'):
        read_tensor_file(str(path))


def bytes_of(kind, tmp_path):
    path = tmp_path / 'whole'
    if kind == 'safetensors':
        safetensors.torch.save_file(CONTENT['model'], path)
    else:
        torch.save(
            CONTENT, path, _use_new_zipfile_serialization=kind == 'zip')
    return path.read_bytes()


def damaged(path):
    with pytest.raises(ValueError) as error:
        read_tensor_file(str(path))
    assert f'{path} cannot be read (' in str(error.value)
    assert 'damaged, incomplete or not a checkpoint' in str(error.value)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('kept', [0, .01, .3, .5, .9, .99, -1])
@pytest.mark.parametrize('kind', ['zip', 'legacy', 'safetensors'])
def test_truncated_file(tmp_path, kind, kept):
    whole = bytes_of(kind, tmp_path)
    end = kept if kept == -1 else int(kept * len(whole))
    path = tmp_path / (
        'cut.safetensors' if kind == 'safetensors' else 'cut.pth')
    path.write_bytes(whole[:end])
    damaged(path)


@pytest.mark.parametrize('missing', ['data.pkl', 'data/2'])
def test_archive_without_a_member(tmp_path, missing):
    bytes_of('zip', tmp_path)
    path = tmp_path / 'incomplete.pth'
    with zipfile.ZipFile(tmp_path / 'whole') as whole, zipfile.ZipFile(
            path, 'w') as part:
        names = [n for n in whole.namelist() if not n.endswith(missing)]
        assert len(names) == len(whole.namelist()) - 1
        for name in names:
            part.writestr(name, whole.read(name))
    damaged(path)


@pytest.mark.parametrize('member', ['data.pkl', 'data/0'])
def test_compressed_archive(tmp_path, member, monkeypatch):
    """100 kB, of which torch.load would make hundreds of megabytes."""
    path = tmp_path / 'weights.pth'
    torch.save(dict(weight=torch.zeros(4)), path)
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, 'w') as archive:
        for name, data in content.items():
            bomb = name.endswith(member)
            archive.writestr(
                name,
                bytes(100 << 20) if bomb else data,
                compress_type=zipfile.ZIP_DEFLATED if bomb else None)
    assert path.stat().st_size < 200_000
    monkeypatch.setattr(torch, 'load', None)  # does not even come to that
    with pytest.raises(ValueError, match=f'{member} is compressed'):
        read_tensor_file(str(path))


def test_archive_with_a_member_too_short(tmp_path):
    bytes_of('zip', tmp_path)
    path = tmp_path / 'short.pth'
    with zipfile.ZipFile(tmp_path / 'whole') as whole, zipfile.ZipFile(
            path, 'w') as part:
        for name in whole.namelist():
            content = whole.read(name)
            part.writestr(name, content[:16 if '/data/' in name else None])
    damaged(path)


@pytest.mark.parametrize('content', [
    b'version https://git-lfs.github.com/spec/v1\noid sha256:12ab\n',
    b'<!DOCTYPE html><html><body>Not found</body></html>',
    b'commit 12ab\n',
    bytes(range(256)) * 5,
    b'\x00' * 4096,
    b'PK\x03\x04' + b'\x00' * 100,
], ids=['git-lfs', 'html', 'text', 'bytes', 'zeros', 'zip-start'])
@pytest.mark.parametrize('name', ['file.pth', 'file.safetensors'])
def test_something_else(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    damaged(path)


@pytest.mark.parametrize('header', [
    b'{"a":{"dtype":"F32","shape":[1000],"data_offsets":[0,4000]}}',
    b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,400]}}',
    b'{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}',
    b'{"a":{"dtype":"X9","shape":[1],"data_offsets":[0,4]}}',
    b'{"a":',
])
def test_safetensors_with_a_lying_header(tmp_path, header):
    path = tmp_path / 'lying.safetensors'
    path.write_bytes(len(header).to_bytes(8, 'little') + header + b'\0' * 4)
    damaged(path)
    path.write_bytes((1 << 62).to_bytes(8, 'little') + header + b'\0' * 4)
    damaged(path)
