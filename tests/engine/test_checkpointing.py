"""A checkpoint is whole or not there; a damaged one is noticed."""
import os
import subprocess

import pytest
import torch
from mmengine.fileio import LocalBackend, get_file_backend, put
from mmengine.runner import save_checkpoint

from dmae_mm.engine.checkpointing import (check_before_resuming, damage,
                                          whole_files, write_run_file)
from dmae_mm.files import CannotWrite
from tests.toys.runs import small_disk


def names(folder) -> list:
    return sorted(path.name for path in folder.iterdir())


def test_mmengine_writes_so_when_asked(tmp_path, monkeypatch):
    """What was there stays until all of the new is on the disk."""
    path = tmp_path / 'new' / 'epoch_1.pth'
    asked = whole_files(str(path))
    save_checkpoint(dict(a=1), str(path), backend_args=asked)
    before = path.read_bytes()
    order = []
    real_sync, real_replace = os.fsync, os.replace

    def sync(descriptor):
        order.append('sync')
        real_sync(descriptor)

    def replace(source, target):
        order.append('replace')
        assert path.read_bytes() == before
        assert damage(source) is None
        real_replace(source, target)

    monkeypatch.setattr(os, 'fsync', sync)
    monkeypatch.setattr(os, 'replace', replace)
    save_checkpoint(dict(a=2), str(path), backend_args=asked)
    assert order == ['sync', 'replace', 'sync']  # the folder's name as well
    assert torch.load(path) == dict(a=2)
    assert names(path.parent) == ['epoch_1.pth']


def test_mmengines_own_backend_is_as_it_was(tmp_path, monkeypatch):
    """Importing this package changes it for nobody else."""
    monkeypatch.setattr(os, 'replace', None)  # ours would call it
    for asked in (None, dict(backend='local')):
        path = str(tmp_path / 'a.pth')
        assert type(get_file_backend(path, backend_args=asked)) is LocalBackend
        put(b'x', path, backend_args=asked)
    save_checkpoint(dict(a=1), path)
    assert torch.load(path) == dict(a=1)


def test_a_full_disk_is_explained(tmp_path):
    with small_disk(tmp_path / 'disk') as disk:
        old = disk / 'epoch_1.pth'
        write_run_file(str(old), bytes(600_000))
        with pytest.raises(CannotWrite) as error:
            write_run_file(str(disk / 'epoch_2.pth'), bytes(600_000))
        said = str(error.value)
        assert 'epoch_2.pth needs 600,000 bytes' in said
        assert f'mounted at {disk}' in said and 'No space left' in said
        free = int(said.split(' bytes are free')[0].split()[-1].replace(
            ',', ''))
        assert 0 <= free < 600_000
        assert names(disk) == ['epoch_1.pth']
        assert len(old.read_bytes()) == 600_000
        subprocess.run(['mount', '-o', 'remount,ro', str(disk)], check=True)
        with pytest.raises(CannotWrite, match='Read-only.*writable'):
            write_run_file(str(old), b'')
        assert len(old.read_bytes()) == 600_000


def flip_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize('harm, message', [
    (flip_bit, 'the checksum of .* is wrong'),
    (lambda path: path.write_bytes(path.read_bytes()[:-9]), 'is cut off'),
    (lambda path: path.write_bytes(b''), 'is empty'),
    (lambda path: path.unlink(), 'does not exist'),
])
def test_a_damaged_checkpoint_is_named_with_the_one_before(
        harm, message, tmp_path):
    paths = [tmp_path / f'epoch_{epoch}.pth' for epoch in (1, 2, 3, 4)]
    for age, path in enumerate(paths):
        torch.save(dict(weights=torch.zeros(1000)), path)
        os.utime(path, (0, age))
    flip_bit(paths[2])
    os.utime(paths[2], (0, 2))
    check_before_resuming(str(tmp_path), str(paths[3]))
    harm(paths[3])
    with pytest.raises(ValueError, match=message) as error:
        check_before_resuming(str(tmp_path), str(paths[3]))
    assert f'give --resume {paths[1]}.' in str(error.value)
    flip_bit(paths[0])
    flip_bit(paths[1])
    with pytest.raises(ValueError, match='no other one that is whole'):
        check_before_resuming(str(tmp_path), str(paths[3]))


def test_what_a_flipped_bit_does_to_torch(tmp_path):
    """Why checksums are compared: torch loads it."""
    path = tmp_path / 'a.pth'
    torch.save(torch.zeros(1000), path)
    flip_bit(path)
    assert torch.load(path).ne(0).sum() == 1
    assert damage(str(path)) is not None
    assert damage(str(tmp_path)) == 'it does not exist'
