"""What is said on other operating systems, and that ours starts there.

They are simulated: nobody has run these tests on Windows or macOS.
"""
import re
import sys
from types import SimpleNamespace

import pytest
from mmengine.config import Config

from dmae_mm.launch import (adapt_to_platform, cpu, platform_notes,
                            static_problems)
from tests.toys.models import ROOT
from tests.toys.runs import TRAIN, config, launch

WITHOUT_POSIX = ROOT / 'tests' / 'toys' / 'without_posix.py'


@pytest.fixture
def at(monkeypatch):
    """Go to a system and a device."""

    def go(system, device='cpu'):
        monkeypatch.setattr(platform_notes, 'sys',
                            SimpleNamespace(platform=system))
        for module in (platform_notes, cpu):
            monkeypatch.setattr(module, 'get_device', lambda: device)

    return go


def example(**changes):
    cfg = Config(
        dict(
            work_dir='work_dirs/a',
            optim_wrapper=dict(type='OptimWrapper'),
            launcher='none',
            train_dataloader=dict(
                num_workers=8, dataset=dict(type='ShardDataset')),
            val_dataloader=dict(num_workers=0),
            custom_hooks=[dict(type='PreemptionHook')],
            env_cfg=dict(mp_cfg=dict(mp_start_method='fork')),
            model=dict(target=dict(type='L1'))))
    cfg.merge_from_dict(changes)
    return cfg


def test_on_linux_nothing_is_said_or_changed(at, capsys):
    at('linux', 'cuda')
    cfg = example(
        launcher='pytorch', **{
            'model.target.type': 'Standardize',
            'train_dataloader.dataset.cache_size': 10**9
        })
    adapt_to_platform(cfg)
    assert capsys.readouterr().out == ''
    assert cfg.env_cfg.mp_cfg.mp_start_method == 'fork'
    assert platform_notes.platform_problems(cfg) == []


def test_windows(at, capsys):
    at('win32')
    cfg = example()
    adapt_to_platform(cfg)
    lines = capsys.readouterr().out.splitlines()
    assert [line.startswith('Windows: ') for line in lines] == 3 * [True]
    tested, signals, workers = lines
    assert 'tested on Linux only' in tested
    assert 'only Ctrl-C saves' in signals and 'no SIGUSR1' in signals
    assert 'each worker (train_dataloader.num_workers=8)' in workers
    assert "`if __name__ == '__main__':`" in workers
    quiet = example(custom_hooks=[])
    quiet.train_dataloader.num_workers = 0
    assert len(platform_notes.platform_notes(quiet)) == 1


@pytest.mark.parametrize('before, after', [
    ('fork', 'spawn'), (None, 'spawn'), ('forkserver', 'forkserver')])
def test_macos_does_not_fork(before, after, at, capsys):
    at('darwin')
    cfg = example()
    if before is None:
        cfg.pop('env_cfg')
    else:
        cfg.env_cfg.mp_cfg.mp_start_method = before
    adapt_to_platform(cfg)
    assert cfg.env_cfg.mp_cfg.mp_start_method == after
    said = capsys.readouterr().out
    assert 'macOS: to stop a run by SIGTERM or SIGUSR1, send it to the' in said
    assert 'MPS' not in said


def test_only_the_first_process_speaks(at, capsys, monkeypatch):
    at('win32', 'cuda')
    for rank, says in (('0', True), ('1', False)):
        monkeypatch.setenv('RANK', rank)
        # With a device, for else the processes would look for each other.
        adapt_to_platform(example(launcher='pytorch'))
        assert bool(capsys.readouterr().out) is says


@pytest.mark.parametrize('system, device, changes, problem', [
    ('win32', 'cuda', dict(launcher='pytorch'),
     "launcher='pytorch': .*NCCL.*env_cfg.dist_cfg.backend=gloo"),
    ('win32', 'cuda',
     {'launcher': 'pytorch', 'env_cfg.dist_cfg.backend': 'gloo'}, None),
    ('win32', 'cpu', dict(launcher='pytorch'), None),
    ('win32', 'cuda', {'train_dataloader.dataset.cache_size': 10**9},
     'train_dataloader.dataset.cache_size=1000000000: on Windows no shard'),
    ('darwin', 'mps', dict(launcher='pytorch'), 'several processes cannot'),
    ('darwin', 'cpu', dict(launcher='pytorch'), None),
    ('darwin', 'mps', {'model.target.type': 'mmpretrain.PHIStandardize'},
     "model.target.type='mmpretrain.PHIStandardize' computes in float64"),
    ('darwin', 'cpu', {'model.target.type': 'Standardize'}, None),
])
def test_what_cannot_work_is_refused(system, device, changes, problem, at):
    at(system, device)
    problems = platform_notes.platform_problems(example(**changes))
    assert len(problems) == (problem is not None)
    if problem is not None:
        assert re.search(problem, problems[0])


def test_letters_that_the_system_lacks(photos, monkeypatch):
    monkeypatch.setattr(platform_notes.locale, 'getpreferredencoding',
                        lambda _: 'cp1252')
    assert static_problems(config(photos, 'work_dirs/Größe')) == []
    problem, = static_problems(config(photos, 'work_dirs/大小'))
    assert "大小' has letters" in problem and 'PYTHONUTF8=1' in problem


def test_apples_gpu(at, capsys):
    at('darwin', 'mps')
    cfg = example(optim_wrapper=dict(type='AmpOptimWrapper', dtype='float16'))
    adapt_to_platform(cfg)
    assert cfg.optim_wrapper == dict(type='OptimWrapper')
    assert ("Apple's GPU (MPS): AmpOptimWrapper is replaced"
            in capsys.readouterr().out)
    assert any('PYTORCH_ENABLE_MPS_FALLBACK=1' in note
               for note in platform_notes.platform_notes(example()))


def test_it_starts_without_what_windows_lacks(tmp_path):
    said = launch([sys.executable, WITHOUT_POSIX, TRAIN, '--help'], tmp_path)
    assert 'path of the config' in said


@pytest.mark.slow
def test_it_trains_without_what_windows_lacks(photos, tmp_path):
    """With workers that are started anew, and to the same weights."""
    cfg = config(photos, tmp_path / 'unused', num_workers=2)
    cfg.custom_imports = dict(imports=['dmae_mm'], allow_failed_imports=False)
    cfg.log_level = 'INFO'
    cfg.default_hooks.update(
        runtime_info=dict(type='FiniteLossHook'),
        progress_bar=dict(type='ProgressBarHook'))
    cfg.custom_hooks += [
        dict(type=name) for name in
        ('PreemptionHook', 'SkippedImagesHook', 'CalibrationHook')]
    pipeline = cfg.train_dataloader.dataset.pipeline
    pipeline[1:] = [
        dict(type='LoadImageOrSkip'),
        dict(type='FastRandomResizedCrop', scale=32),
        dict(type='PackInputs',
             meta_keys=('img_path', 'sample_idx', 'skipped_images'))
    ]
    cfg.dump(tmp_path / 'toy.py')
    losses = []
    for name, start in (('here', []), ('there', [WITHOUT_POSIX])):
        said = launch([sys.executable, *start, TRAIN, tmp_path / 'toy.py',
                       '--work-dir', tmp_path / name], tmp_path)
        losses.append([line.split(' loss: ')[1]
                       for line in said.splitlines() if ' loss: ' in line])
        assert (tmp_path / name / 'epoch_2.pth').is_file()
    assert losses[0] == losses[1] and len(losses[0]) == 8
    said = launch([sys.executable, WITHOUT_POSIX, TRAIN, tmp_path / 'toy.py',
                   '--work-dir', tmp_path / 'check', '--check'], tmp_path)
    assert 'peak not known: this system does not tell.' in said
    assert 'Everything works' in said
