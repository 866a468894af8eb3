"""scaling.py: two processes against one."""
import json
import sys

import pytest

from studies.benchmarks import scaling
from tests.toys.models import ROOT


@pytest.mark.slow
def test_it_measures_all_and_writes_them(tmp_path, monkeypatch):
    path = tmp_path / 'scaling.json'
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, 'argv', [
        'scaling.py', 'configs/digits/vit-student_dmae_digits.py',
        '--batch-size', '4', '--rounds', '3', '--device', 'cpu', '--json',
        str(path)
    ])
    scaling.main()
    results = json.loads(path.read_text())['results']
    assert list(results) == list(scaling.TURNS)
    for turn, row in results.items():
        images = 4 if turn == 'one alone' else 8
        assert row['images_per_second'] == pytest.approx(images /
                                                         row['seconds'])
        assert 0 < row['ratio_min'] <= row['ratio'] <= row['ratio_max']
    assert results['one alone']['ratio'] == 1


@pytest.mark.parametrize('options', [['--processes', '1'],
                                     ['--threads', '1000']])
def test_what_the_machine_cannot_do_is_refused(options, monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv',
                        ['scaling.py', '--device', 'cpu', *options])
    with pytest.raises(SystemExit, match='2'):
        scaling.main()
    assert 'this machine has' in capsys.readouterr().err
