"""tools/test.py looks for files before anything is built."""
import runpy
import sys

import pytest

from tests.toys.models import ROOT

TEST = ROOT / 'tools' / 'test.py'


@pytest.mark.parametrize('arguments, messages', [
    (['gone.py', 'gone.pth'], ["There is no config 'gone.py'",
                               "there is no checkpoint 'gone.pth'"]),
    (['c.py', 'gone.pth'], ["there is no checkpoint 'gone.pth'",
                            "there is no folder 'gone' to test on"]),
    (['c.py', 'c.py', '--cfg-options',
      'test_dataloader.dataset.data_root=lost'],
     ["there is no folder 'lost' to test on: set --cfg-options "
      'test_dataloader.dataset.data_root=/path/to/images']),
    (['c.py', 'c.py', '--cfg-options', 'model.teacher.checkpoint.0=1'],
     ['The config c.py cannot be read: TypeError: ']),
    (['c.py', 'c.py', '--cfg-options', "model=dict(type='A',b=1)"],
     ['a dict cannot be given as one value']),
    (['c.py', 'c.py', '--cfg-options', 'epochs'],
     ['--cfg-options takes KEY=VALUE pairs']),
])
def test_refusals(arguments, messages, tmp_path, monkeypatch, capsys):
    (tmp_path / 'c.py').write_text(
        'test_dataloader = dict(dataset=dict(data_root="gone"))\n'
        'model = dict(teacher=dict(checkpoint="not_needed.pth"))')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'argv', [str(TEST), *arguments])
    monkeypatch.setattr(sys, 'path', list(sys.path))
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(TEST), run_name='__main__')
    assert stop.value.code == 2
    said = capsys.readouterr().err
    for message in messages:
        assert message in said


def test_help_is_that_of_mmpretrain(monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', [str(TEST), '--help'])
    monkeypatch.setattr(sys, 'path', list(sys.path))
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(TEST), run_name='__main__')
    assert stop.value.code == 0
    assert '--out-item' in capsys.readouterr().out
