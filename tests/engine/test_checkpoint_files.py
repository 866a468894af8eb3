"""A checkpoint is whole or not there; a damaged one is noticed."""
import contextlib
import errno
import os
import subprocess

import pytest
import torch
from mmengine.fileio import get_file_backend
from mmengine.runner import save_checkpoint

from dmae_mm.engine import checkpoint_files
from dmae_mm.engine.checkpoint_files import (CannotWrite,
                                             check_before_resuming, damage,
                                             remove_leftovers,
                                             write_atomically)


def names(folder) -> list:
    return sorted(path.name for path in folder.iterdir())


@contextlib.contextmanager
def small_disk(folder, *options):
    """A file system of one megabyte in memory, where one may be mounted."""
    folder.mkdir()
    result = subprocess.run(
        ['mount', '-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', str(folder)],
        capture_output=True)
    if result.returncode:
        pytest.skip('mounting needs root')
    try:
        yield folder
    finally:
        subprocess.run(['umount', '-l', str(folder)], check=True)


def test_mmengine_writes_checkpoints_so(tmp_path, monkeypatch):
    """What was there stays until all of the new is on the disk."""
    path = tmp_path / 'new' / 'epoch_1.pth'
    save_checkpoint(dict(a=1), str(path))
    before = path.read_bytes()
    order = []
    real_sync, real_replace = os.fsync, os.replace

    def sync(descriptor):
        order.append('sync')
        real_sync(descriptor)

    def replace(source, target):
        order.append('replace')
        assert names(path.parent) == ['epoch_1.pth', 'epoch_1.pth.writing']
        assert path.read_bytes() == before
        assert damage(source) is None
        real_replace(source, target)

    monkeypatch.setattr(os, 'fsync', sync)
    monkeypatch.setattr(os, 'replace', replace)
    save_checkpoint(dict(a=2), str(path))
    assert order == ['sync', 'replace', 'sync']  # the folder's name as well
    assert torch.load(path) == dict(a=2)
    assert names(path.parent) == ['epoch_1.pth']
    # Other files are written as mmengine does.
    get_file_backend(str(tmp_path)).put(b'x', str(tmp_path / 'a.png'))
    assert len(order) == 3


def test_a_full_disk_is_explained(tmp_path):
    with small_disk(tmp_path / 'disk') as disk:
        old = disk / 'epoch_1.pth'
        write_atomically(str(old), bytes(600_000))
        with pytest.raises(CannotWrite) as error:
            write_atomically(str(disk / 'epoch_2.pth'), bytes(600_000))
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
            write_atomically(str(old), b'')
        assert len(old.read_bytes()) == 600_000


def test_no_trace_of_a_failed_write(tmp_path, monkeypatch):
    """As the above, where no disk may be mounted."""
    (tmp_path / 'a.pth').write_bytes(b'old')

    def fails(descriptor):
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(os, 'fsync', fails)
    with pytest.raises(CannotWrite, match='3 bytes .*No space left'):
        write_atomically(str(tmp_path / 'a.pth'), b'new')
    assert names(tmp_path) == ['a.pth']
    assert (tmp_path / 'a.pth').read_bytes() == b'old'


def test_only_leftovers_are_removed(tmp_path):
    for name in ('epoch_1.pth', 'epoch_2.pth.writing', 'notes.writing',
                 'last_checkpoint', 'last_checkpoint.writing'):
        (tmp_path / name).touch()
    assert sorted(remove_leftovers(str(tmp_path))) == [
        'epoch_2.pth.writing', 'last_checkpoint.writing'
    ]
    assert names(tmp_path) == [
        'epoch_1.pth', 'last_checkpoint', 'notes.writing'
    ]


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
    check_before_resuming(str(paths[3]))
    harm(paths[3])
    with pytest.raises(ValueError, match=message) as error:
        check_before_resuming(str(paths[3]))
    assert f'give --resume {paths[1]}.' in str(error.value)
    flip_bit(paths[0])
    flip_bit(paths[1])
    with pytest.raises(ValueError, match='no other one that is whole'):
        check_before_resuming(str(paths[3]))


def test_what_a_flipped_bit_does_to_torch(tmp_path):
    """Why checksums are compared: torch loads it."""
    path = tmp_path / 'a.pth'
    torch.save(torch.zeros(1000), path)
    flip_bit(path)
    assert torch.load(path).ne(0).sum() == 1
    assert damage(str(path)) is not None
    assert checkpoint_files.damage(str(tmp_path)) == 'it does not exist'
