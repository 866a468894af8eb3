"""One run in a work dir at a time; a preempted one goes on by itself."""
import errno
import json
import os
import signal
import socket
import time
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from mmengine.config import Config

from dmae_mm.engine import work_dir
from dmae_mm.engine.checkpointing import write_run_file
from dmae_mm.engine.work_dir import (HOLDER, LOCK, WorkDirInUse,
                                     forget_preemption, lock_work_dir,
                                     note_preemption, prepare_work_dir,
                                     sole_run)


def in_child(work, wait=True):
    """Do something in another process; its id, or its exit status."""
    pid = os.fork()
    if not pid:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) if wait else pid


@pytest.fixture
def other(tmp_path):
    """Another process that has the work dir."""

    def hold():
        lock_work_dir(str(tmp_path))
        (tmp_path / 'held').touch()
        time.sleep(60)

    pid = in_child(hold, wait=False)
    while not (tmp_path / 'held').exists():
        time.sleep(0.01)
    yield pid
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def test_the_second_run_is_told_of_the_first(tmp_path, other):
    for _ in range(2):  # to have asked gives no right
        with pytest.raises(WorkDirInUse) as error:
            lock_work_dir(str(tmp_path))
        said = str(error.value)
        assert f'process {other} on {socket.gethostname()}' in said
        assert str(tmp_path) in said and '--work-dir' in said


def test_a_killed_run_leaves_no_lock(tmp_path):

    def die():
        lock_work_dir(str(tmp_path))
        # A worker of the data loader that outlives it.
        if not os.fork():
            time.sleep(2)
            os._exit(0)
        os.kill(os.getpid(), signal.SIGKILL)

    assert in_child(die) == -signal.SIGKILL
    assert (tmp_path / LOCK).exists()
    lock_work_dir(str(tmp_path))
    assert json.loads((tmp_path / HOLDER).read_text())['pid'] == os.getpid()


def test_one_process_may_train_there_again(tmp_path):
    lock_work_dir(str(tmp_path))
    lock_work_dir(str(tmp_path / '..' / tmp_path.name))
    # The end of a child does not end the parent's lock.
    assert in_child(lambda: None) == 0

    def refused():
        work_dir._held.clear()
        with pytest.raises(WorkDirInUse):
            lock_work_dir(str(tmp_path))

    assert in_child(refused) == 0


def test_a_file_system_without_locks_is_said(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(work_dir, 'print_log',
                        lambda text, **options: said.append(text))

    def fails(self, **options):
        raise OSError(errno.ENOLCK, 'No locks available')

    monkeypatch.setattr(FileLock, 'acquire', fails)
    lock_work_dir(str(tmp_path))
    assert 'No locks available' in said[0] and str(tmp_path) in said[0]


def config(folder, **options):
    return Config(
        dict(
            work_dir=str(folder),
            optim_wrapper=dict(optimizer=dict(type='AdamW', lr=1e-3)),
            resume=False,
            load_from=None,
            **options))


def test_a_preempted_run_goes_on_by_itself(tmp_path, capsys):
    cfg = config(tmp_path)
    prepare_work_dir(cfg)
    assert cfg.resume is False
    note_preemption(str(tmp_path), cfg, 'SIGUSR1', 70)
    # How it is started does not matter, nor how often.
    for launcher in ('none', 'slurm'):
        cfg = config(tmp_path, launcher=launcher)
        prepare_work_dir(cfg)
        assert cfg.resume is True
        said = capsys.readouterr().out
        assert 'SIGUSR1 stopped at iteration 70' in said
        assert 'preempted.json' in said
    # Somebody who asks for weights to begin from is not overruled.
    cfg = config(tmp_path)
    cfg.load_from = 'weights.pth'
    prepare_work_dir(cfg)
    assert cfg.resume is False
    forget_preemption(str(tmp_path))
    forget_preemption(str(tmp_path))
    cfg = config(tmp_path)
    prepare_work_dir(cfg)
    assert cfg.resume is False


def test_but_not_with_another_config(tmp_path):
    note_preemption(str(tmp_path), config(tmp_path), 'SIGTERM', 70)
    cfg = config(tmp_path)
    cfg.optim_wrapper.optimizer.lr = 2e-3
    with pytest.raises(ValueError) as error:
        prepare_work_dir(cfg)
    said = str(error.value)
    for part in ('SIGTERM', 'iteration 70', 'lr=0.001', 'lr=0.002',
                 '--resume', '--work-dir'):
        assert part in said
    cfg.resume = True  # unless asked to
    prepare_work_dir(cfg)


def an_earlier_run(folder, epoch=3, of=100, name=None):
    """A checkpoint as MMEngine leaves it."""
    path = folder / (name or f'epoch_{epoch}.pth')
    text = f"train_cfg = dict(max_epochs={of}, type='EpochBasedTrainLoop')\n"
    torch.save(
        dict(meta=dict(epoch=epoch, iter=epoch * 10, cfg=text)), path)
    (folder / 'last_checkpoint').write_text(str(path))
    return path


def refused(cfg):
    """What is said; nothing is changed."""
    folder = Path(cfg.work_dir)
    before = {path: path.read_bytes() for path in folder.iterdir()
              if path.name not in (LOCK, HOLDER)}
    with pytest.raises(ValueError) as error:
        prepare_work_dir(cfg)
    assert before == {path: path.read_bytes() for path in folder.iterdir()
                      if path.name not in (LOCK, HOLDER)}
    return str(error.value)


@pytest.mark.parametrize('of, said', [
    (3, 'finished at epoch 3 of 3'),
    (100, 'unfinished at epoch 3 of 100'),
])
def test_an_earlier_run_is_not_written_over(tmp_path, of, said):
    cfg = config(tmp_path)
    prepare_work_dir(cfg)  # nothing is there
    path = an_earlier_run(tmp_path, of=of)
    message = refused(cfg)
    assert f'{said} ({path})' in message
    assert '--resume' in message and '--overwrite' in message
    # Other weights to begin from do not make it another work dir.
    cfg.load_from = 'weights.pth'
    refused(cfg)
    for options in (dict(resume=True), dict(overwrite=True)):
        cfg = config(tmp_path)
        cfg.update(options)
        prepare_work_dir(cfg)
        assert cfg.resume is bool(options.get('resume'))


@pytest.mark.parametrize('name', ['epoch_3.pth', 'iter_30.pth',
                                  'mid_epoch.pth', 'best_acc_epoch_3.pth'])
def test_also_if_nothing_names_its_last_checkpoint(tmp_path, name):
    """Then MMEngine would begin anew even if asked to resume."""
    path = an_earlier_run(tmp_path, name=name)
    (tmp_path / 'last_checkpoint').unlink()
    for resume in (False, True):
        cfg = config(tmp_path)
        cfg.resume = resume
        assert f'--resume {path}' in refused(cfg)
    cfg.overwrite = True
    prepare_work_dir(cfg)


def test_other_files_are_no_earlier_run(tmp_path):
    torch.save({}, tmp_path / 'teacher.pth')
    prepare_work_dir(config(tmp_path))


def test_an_unreadable_checkpoint_is_not_written_over_either(tmp_path):
    path = an_earlier_run(tmp_path)
    path.write_bytes(b'half of')
    assert f'{path} cannot be read' in refused(config(tmp_path))


def test_overwriting_a_preempted_run(tmp_path):
    an_earlier_run(tmp_path)
    note_preemption(str(tmp_path), config(tmp_path), 'SIGTERM', 30)
    for lr in (1e-3, 2e-3):
        cfg = config(tmp_path, overwrite=True)
        cfg.optim_wrapper.optimizer.lr = lr
        prepare_work_dir(cfg)
        assert cfg.resume is False
    # The command that a scheduler queues again goes on, however it began.
    note_preemption(str(tmp_path), config(tmp_path, overwrite=True),
                    'SIGTERM', 30)
    for options in (dict(overwrite=True), dict()):
        cfg = config(tmp_path, **options)
        prepare_work_dir(cfg)
        assert cfg.resume is True


def test_a_damaged_checkpoint_is_refused_before_anything_is_built(tmp_path):
    torch.save(dict(a=1), tmp_path / 'epoch_1.pth')
    (tmp_path / 'epoch_2.pth').write_bytes(b'half of')
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'epoch_2.pth'))
    cfg = config(tmp_path)
    cfg.resume = True
    with pytest.raises(SystemExit) as stop, sole_run(cfg):
        pytest.fail('It began.')
    assert f'--resume {tmp_path / "epoch_1.pth"}' in str(stop.value)
    for path in [*tmp_path.glob('*.pth'), tmp_path / 'last_checkpoint']:
        path.unlink()
    with sole_run(cfg):  # nothing to resume: it begins
        pass


@pytest.mark.parametrize('name', ['epoch_1.pth', 'scalars.json'])
def test_a_full_disk_ends_the_run_with_a_message(tmp_path, name, monkeypatch):
    """While a checkpoint is written, or a log."""

    def fails(*_):
        raise OSError(errno.ENOSPC, 'No space left on device',
                      str(tmp_path / name))

    with pytest.raises(SystemExit) as stop, sole_run(config(tmp_path)):
        monkeypatch.setattr(os, 'fsync', fails)
        if name.endswith('.pth'):
            write_run_file(str(tmp_path / name), b'123')
        fails()
    said = str(stop.value)
    assert str(tmp_path / name) in said and 'bytes are free' in said
    assert ('needs 3 bytes' in said) is name.endswith('.pth')
    # What is not about writing stays as it is.
    with pytest.raises(FileNotFoundError), sole_run(config(tmp_path)):
        raise FileNotFoundError(errno.ENOENT, 'No such file', 'teacher.pth')
