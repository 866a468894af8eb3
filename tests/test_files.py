import errno
import os

import pytest

from dmae_mm import files
from dmae_mm.files import (CannotWrite, check_place, remove_leftovers,
                           write_whole)


def test_a_file_replaces_another(tmp_path):
    path = tmp_path / 'new' / 'a.txt'
    for text in ('first', 'second'):
        with write_whole(str(path)) as unfinished:
            assert os.path.basename(unfinished) == 'a.txt'
            with open(unfinished, 'w') as file:
                file.write(text)
        assert path.read_text() == text
    assert os.listdir(path.parent) == ['a.txt']
    assert path.stat().st_mode & 0o777 == 0o666 & ~_umask()


def test_a_folder(tmp_path):
    with write_whole(str(tmp_path / 'folder')) as unfinished:
        os.makedirs(os.path.join(unfinished, 'below'))
        with open(os.path.join(unfinished, 'below', 'a'), 'w') as file:
            file.write('text')
    assert (tmp_path / 'folder' / 'below' / 'a').read_text() == 'text'
    assert os.listdir(tmp_path) == ['folder']


def test_on_windows_no_folder_is_opened_or_replaced(tmp_path, monkeypatch):
    """It opens no folders, and brings to the disk what can be written."""
    opened, there = [], os.open

    def recorded(path, flags, *mode, **options):
        if 'dir_fd' not in options:  # else, a folder that is removed
            opened.append((os.path.basename(path), flags))
        return there(path, flags, *mode, **options)

    monkeypatch.setattr(files, 'WINDOWS', True)
    monkeypatch.setattr(os, 'open', recorded)
    (tmp_path / 'folder').mkdir()
    for name in ('folder', 'a'):
        with write_whole(str(tmp_path / name)) as unfinished:
            below = unfinished
            if name == 'folder':
                os.mkdir(unfinished)
                below = os.path.join(unfinished, 'a')
            with open(below, 'w') as file:
                file.write('text')
    assert (tmp_path / 'folder' / 'a').read_text() == 'text'
    assert (tmp_path / 'a').read_text() == 'text'
    assert opened == [('a', os.O_RDWR)] * 2


def test_what_fails_changes_nothing(tmp_path):
    path = tmp_path / 'a.txt'
    path.write_text('old')
    with pytest.raises(KeyError), write_whole(str(path)) as unfinished:
        with open(unfinished, 'w') as file:
            file.write('new')
        raise KeyError
    assert path.read_text() == 'old'
    with pytest.raises(KeyError), write_whole(str(tmp_path / 'b' / 'c' / 'd')):
        raise KeyError
    assert os.listdir(tmp_path) == ['a.txt']


@pytest.mark.parametrize('number, words', [
    (errno.ENOSPC, 'bytes are free on the disk mounted at /.*Free some space'),
    (errno.EDQUOT, 'a quota'),
    (errno.EROFS, 'Make the folder writable'),
])
def test_a_disk_that_takes_nothing(tmp_path, number, words):
    path = str(tmp_path / 'a.txt')
    with pytest.raises(CannotWrite, match=words) as error:
        with write_whole(path):
            raise OSError(number, os.strerror(number))
    assert error.value.errno == number
    assert path in str(error.value)
    with pytest.raises(CannotWrite, match='Delete something'):
        with write_whole(path, advice='Delete something.'):
            raise OSError(number, os.strerror(number))


def test_other_errors_are_left_alone(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        with write_whole(str(tmp_path / 'a')):
            open(tmp_path / 'source')
    assert not isinstance(error.value, CannotWrite)


def test_leftovers(tmp_path):
    (tmp_path / '.writing-abc').mkdir()
    (tmp_path / '.writing-abc' / 'epoch_1.pth').touch()
    (tmp_path / 'epoch_1.pth').touch()
    assert remove_leftovers(str(tmp_path)) == ['epoch_1.pth']
    assert os.listdir(tmp_path) == ['epoch_1.pth']


def _umask() -> int:
    value = os.umask(0)
    os.umask(value)
    return value


def test_a_place_is_tried_without_making_anything(tmp_path):
    check_place(str(tmp_path / 'new' / 'folder' / 'a'))
    (tmp_path / 'file').touch()
    with pytest.raises(CannotWrite, match='file/a cannot be written: Not a '):
        check_place(str(tmp_path / 'file' / 'a'))
    with pytest.raises(IsADirectoryError, match='is a folder. Give the name'):
        check_place(str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ['file']
