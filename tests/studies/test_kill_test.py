"""studies/kill_test.py with few kills of a toy run."""
import os
import runpy
import sys
from pathlib import Path

import pytest
import torch

from tests.toys.models import ROOT
from tests.toys.runs import config

TOOL = ROOT / 'studies' / 'kill_test.py'
TRAIN = str(ROOT / 'tools' / 'train.py')


@pytest.fixture
def tool(monkeypatch):
    monkeypatch.setattr(sys, 'path', list(sys.path))
    return runpy.run_path(str(TOOL))


def fork(arguments, log) -> int:
    """tools/train.py in a copy of this process, which has imported it all."""
    Path(log).write_text('')
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        sys.stdout = sys.stderr = open(log, 'w', buffering=1)
        sys.argv = [TRAIN, *arguments]
        os.environ.pop('LOCAL_RANK', None)
        runpy.run_path(TRAIN, run_name='__main__')
        status = 0
    finally:
        os._exit(status)


@pytest.fixture
def toy(photos, tmp_path):  # noqa: F811
    """A config whose checkpoints are written most of the time."""
    cfg = config(photos, tmp_path, 4)
    cfg.pop('work_dir')
    cfg.log_level = 'INFO'
    cfg.custom_imports = dict(imports=['dmae_mm'], allow_failed_imports=False)
    cfg.default_hooks.checkpoint.mid_epoch_interval = 1
    cfg.default_hooks.checkpoint.max_keep_ckpts = 2
    cfg.dump(tmp_path / 'toy.py')
    return str(tmp_path / 'toy.py')


@pytest.mark.slow
def test_killed_runs_end_as_the_undisturbed(tool, toy, tmp_path, capsys):
    work_dir = tmp_path / 'out'
    tool['main'](['--config', toy, '--kills', '3', '--work-dir',
                  str(work_dir)], fork)
    said = capsys.readouterr().out
    assert '3 kills in' in said and 'bit for bit' in said
    assert len([line for line in said.splitlines()
                if line.split()[:1] in (['1'], ['2'], ['3'])]) >= 3
    names = [sorted(path.name for path in (work_dir / name).glob('*.pth*'))
             for name in ('undisturbed', 'killed')]
    assert names == [['epoch_3.pth', 'epoch_4.pth']] * 2


def test_a_difference_is_found(tool, tmp_path, capsys):
    test = tool['KillTest'](str(tmp_path), 1, [], None, 0)
    state = dict(
        state_dict=dict(a=torch.zeros(2), b=torch.ones(2)),
        optimizer=dict(state={0: dict(step=torch.tensor(1.))}),
        param_schedulers=[dict(last_step=3)])
    for name in ('killed', 'undisturbed'):
        (tmp_path / name).mkdir()
        path = tmp_path / name / 'epoch_1.pth'
        torch.save(state, path)
        (tmp_path / name / 'last_checkpoint').write_text(str(path))
    assert test.differences() == []
    state['state_dict']['b'][1] += 2**-23
    state['param_schedulers'][0]['last_step'] = 4
    torch.save(state, path)
    assert test.differences() == ['/param_schedulers/0/last_step',
                                  '/state_dict/b']
    assert '4 tensors and numbers' in capsys.readouterr().out


@pytest.mark.parametrize('arguments, message', [
    (['--kills', '0'], '--kills 0'),
    (['--work-dir', '{folder}'], 'exists already'),
])
def test_refusals(tool, tmp_path, arguments, message, capsys):
    with pytest.raises(SystemExit):
        tool['main']([part.format(folder=tmp_path) for part in arguments])
    assert message in capsys.readouterr().err


def test_a_start_that_fails_is_shown(tool, tmp_path):
    (tmp_path / 'not.py').write_text('work_dir = 1 / 0')
    with pytest.raises(SystemExit, match='(?s)status 1.*ZeroDivision'):
        tool['main'](['--config', str(tmp_path / 'not.py'), '--kills', '1',
                      '--work-dir', str(tmp_path / 'out')], fail)


def fail(arguments, log) -> int:
    Path(log).write_text('ZeroDivisionError: division by zero')
    pid = os.fork()
    if not pid:
        os._exit(1)
    return pid
