"""What is removed goes after what replaces it is there."""
import contextlib
import errno
import logging
import os
import shutil

import pytest
import torch
from mmengine.fileio import LocalBackend
from mmengine.hooks import CheckpointHook, Hook
from mmengine.logging import MessageHub
from mmengine.runner import Runner, save_checkpoint

from dmae_mm.engine import checkpointing
from dmae_mm.engine.checkpointing import (AtomicLocalBackend, damage,
                                          whole_files)
from dmae_mm.engine.hooks import AtomicCheckpointHook
from dmae_mm.engine.work_dir import sole_run
from dmae_mm.files import CannotWrite, remove_leftovers
from tests.toys.resumable_runs import contents
from tests.toys.runs import config, small_disk


class Fake(Runner):
    """A runner that only saves: a tensor, and what the hub says."""

    def __init__(self, work_dir, size=1000):
        self._work_dir, self.size = str(work_dir), size
        self._train_loop = self
        self._epoch = self._iter = 0
        self.dataloader = [0, 0]
        self._max_epochs = self._max_iters = 100
        self.optim_wrapper = None
        self._experiment_name = str(work_dir)
        self.logger = logging.getLogger('fake')
        self.message_hub = MessageHub(f'fake-{work_dir}')

    train_loop = property(lambda self: self._train_loop)
    epoch = property(lambda self: self._epoch)
    iter = property(lambda self: self._iter)

    def save_checkpoint(self, out_dir, filename, *args, meta=None,
                        backend_args=None, **kwargs):
        save_checkpoint(
            dict(
                weights=torch.full((self.size, ), float(self._epoch)),
                hub=dict(self.message_hub.runtime_info),
                meta=meta),
            os.path.join(out_dir, filename),
            backend_args=backend_args)

    def epochs(self, hook, number, metrics=()):
        for index in range(number):
            hook.after_train_epoch(self)
            self._epoch += 1
            if metrics:
                hook.after_val_epoch(self, dict(metrics[index]))


def begin(work_dir, size=1000, **options):
    work_dir.mkdir(exist_ok=True)
    hook, runner = AtomicCheckpointHook(**options), Fake(work_dir, size)
    hook.before_train(runner)
    return hook, runner


class Died(Exception):
    pass


def watched(monkeypatch, folder, die_at=None):
    """Look at each change of the folder; what was seen, as it was."""
    seen = []

    def look(real):

        def changing(*args, **kwargs):
            if die_at is not None and len(seen) == die_at:
                raise Died
            seen.append(sorted(path.name for path in folder.iterdir()))
            for best in ('best_acc', 'best_top'):  # there is one from then on
                assert (any(name.startswith(best) for name in seen[-1])
                        or not any(best in name for name in sum(seen, [])))
            last = folder / 'last_checkpoint'
            if last.exists():
                # The one promise: it names a checkpoint that is whole.
                assert damage(last.read_text()) is None
            return real(*args, **kwargs)

        return changing

    for module, name in ((os, 'replace'), (os, 'remove'), (os, 'fsync'),
                         (shutil, 'rmtree')):
        monkeypatch.setattr(module, name, look(getattr(module, name)))
    return seen


@pytest.mark.parametrize('options, metrics', [
    (dict(interval=1, max_keep_ckpts=1), ()),
    (dict(interval=1, max_keep_ckpts=2), ()),
    (dict(interval=1, max_keep_ckpts=1, save_best='acc', rule='greater'),
     [dict(acc=value) for value in (1., 3., 2., 4.)]),
    (dict(interval=1, save_best=['acc', 'top'], rule='greater'),
     [dict(acc=value, top=5 - value) for value in (1., 3., 2., 4.)]),
])
def test_the_last_is_whole_at_each_moment(tmp_path, monkeypatch, options,
                                          metrics):
    """A kill before each single change of the folder, then a restart."""
    hook, runner = begin(tmp_path / 'whole', **options)
    steps = len(_run(hook, runner, monkeypatch, tmp_path / 'whole', metrics))
    wanted = sorted(contents(tmp_path / 'whole'))
    assert steps > 16
    for die_at in range(steps):
        folder = tmp_path / str(die_at)
        hook, runner = begin(folder, **options)
        with pytest.raises(Died):
            _run(hook, runner, monkeypatch, folder, metrics, die_at)
        # As mmengine resumes: from the file that is named, with its hub.
        remove_leftovers(str(folder))
        again, runner2 = AtomicCheckpointHook(**options), Fake(folder)
        last = folder / 'last_checkpoint'
        if last.exists():
            state = torch.load(last.read_text(), weights_only=False)
            runner2._epoch = state['meta']['epoch']
            for key, value in state['hub'].items():
                runner2.message_hub.update_info(key, value)
        again.before_train(runner2)
        left = 4 - runner2._epoch
        runner2.epochs(again, left, metrics[4 - left:])
        if not metrics:  # a validation that a kill ended is not repeated
            assert sorted(contents(folder)) == wanted
        assert last.read_text() == str(folder / 'epoch_4.pth')


def _run(hook, runner, monkeypatch, folder, metrics, die_at=None):
    with monkeypatch.context() as patch:
        seen = watched(patch, folder, die_at)
        runner.epochs(hook, 4, metrics)
    return seen


def test_the_files_are_those_of_mmengine(tmp_path):
    """Names, number and order, also of the best."""
    found = []
    for kind, name in ((CheckpointHook, 'a'), (AtomicCheckpointHook, 'b')):
        (tmp_path / name).mkdir()
        hook, runner = kind(
            interval=2, max_keep_ckpts=2, save_best='acc',
            rule='greater'), Fake(tmp_path / name)
        hook.before_train(runner)
        runner.epochs(hook, 8, [dict(acc=value) for value in
                                (1., 3., 2., 4., 4., 5., 6., 0.)])
        found.append((sorted(contents(tmp_path / name)),
                      (tmp_path / name / 'last_checkpoint').read_text()
                      .replace(f'/{name}/', '/'),
                      runner.message_hub.get_info('keep_ckpt_ids')))
    assert found[0] == found[1]
    assert found[0][0] == ['best_acc_epoch_7.pth', 'epoch_7.pth',
                           'epoch_8.pth']


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path):
    with small_disk(tmp_path / 'disk') as disk:
        # Each has 400 kB: two fit into a megabyte, a third does not.
        hook, runner = begin(disk, 100_000, interval=1)
        with pytest.raises(CannotWrite, match='epoch_3.pth needs 40.,... b'):
            runner.epochs(hook, 3)
        assert sorted(contents(disk)) == ['epoch_1.pth', 'epoch_2.pth']
        last = (disk / 'last_checkpoint').read_text()
        assert last.endswith('epoch_2.pth') and damage(last) is None
        assert not list(disk.glob('.writing-*'))


def test_a_tight_disk_is_made_use_of(tmp_path):
    """mmengine removes first, and would get by with this disk."""
    with small_disk(tmp_path / 'disk') as disk:
        hook, runner = begin(disk, 100_000, interval=1, max_keep_ckpts=2)
        runner.epochs(hook, 4)
        assert sorted(contents(disk)) == ['epoch_3.pth', 'epoch_4.pth']
        assert all(damage(str(path)) is None for path in disk.glob('*.pth'))
        # The last one never goes for another.
        hook, runner = begin(disk, 200_000, interval=1, max_keep_ckpts=1)
        runner._epoch = 4
        with pytest.raises(CannotWrite):
            runner.epochs(hook, 1)
        assert (disk / 'epoch_4.pth').exists()


def test_a_run_that_cannot_save_stops(photos, tmp_path,  # noqa: F811
                                      monkeypatch):
    """With a real runner; freed of its disk, the run goes on."""
    cfg = config(photos, tmp_path, 3)
    real = os.replace

    def replace(source, target):
        if str(target).endswith('epoch_2.pth'):
            raise OSError(errno.ENOSPC, 'No space left on device')
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, 'replace', replace)
        with pytest.raises(CannotWrite, match='start the same command'):
            Runner.from_cfg(cfg).train()
    assert sorted(contents(tmp_path)) == ['epoch_1.pth']
    (tmp_path / '.writing-x').mkdir()  # as a kill leaves it
    (tmp_path / '.writing-x' / 'epoch_9.pth').touch()
    cfg.update(resume=True, experiment_name='again')
    first = []

    class Note(Hook):

        def before_train_epoch(self, runner):
            first.append(runner.epoch)

    runner = Runner.from_cfg(cfg)
    runner.register_hook(Note())
    runner.train()
    assert first == [1, 2]
    assert sorted(path.name for path in tmp_path.rglob('*.pth')) == [
        'epoch_1.pth', 'epoch_2.pth', 'epoch_3.pth'
    ]
    assert not list(tmp_path.glob('.writing-*'))


def test_published_files_are_whole(tmp_path, monkeypatch):
    hook, runner = begin(
        tmp_path, interval=1, published_keys=['weights', 'meta'])
    runner.epochs(hook, 1)

    def dies(*args):
        raise Died

    monkeypatch.setattr(os, 'replace', dies)
    with pytest.raises(Died):
        hook.after_train(runner)
    assert sorted(contents(tmp_path)) == ['epoch_1.pth']
    monkeypatch.undo()
    hook.after_train(runner)
    path, = tmp_path.glob('epoch_1-*.pth')
    assert torch.load(path).keys() == {'weights', 'meta'}


def test_other_backends_are_left_to_the_config(tmp_path):
    hook, _ = begin(tmp_path)
    assert type(hook.file_backend) is AtomicLocalBackend
    hook, _ = begin(tmp_path, backend_args=dict(backend='local'))
    assert type(hook.file_backend) is LocalBackend
    assert hook.backend_args == dict(backend='local')
    assert whole_files('s3://bucket/run') is None


def test_a_resumed_run_reads_its_checkpoint_once_to_check_it(
        photos, tmp_path, monkeypatch):  # noqa: F811
    """Started by tools/train.py (and mim), and by a plain Runner."""
    checked = []

    def check(path):
        checked.append(os.path.basename(path))
        return damage(path)

    monkeypatch.setattr(checkpointing, 'damage', check)
    for epochs, around in ((1, sole_run), (2, sole_run),
                           (3, lambda cfg: contextlib.nullcontext())):
        cfg = config(photos, tmp_path, epochs)
        cfg.update(resume=epochs > 1, experiment_name=f'{tmp_path}{epochs}')
        with around(cfg):
            Runner.from_cfg(cfg).train()
    assert checked == ['epoch_1.pth', 'epoch_2.pth']


@pytest.mark.parametrize('options, error, message', [
    (dict(intervall=1), TypeError, 'has no option intervall=1.*interval'),
    (dict(mid_epoch_interval=-1), ValueError, 'mid_epoch_interval=-1'),
    (dict(mid_epoch_interval=True), ValueError, 'mid_epoch_interval=True'),
])
def test_options(options, error, message):
    with pytest.raises(error, match=message):
        AtomicCheckpointHook(**options)
