"""tools/replay_step.py on the dump of a run that stopped."""
import os.path as osp
import runpy

import pytest
import torch

from dmae_mm.engine.step_dump import read_dump
from tests.toys.models import ROOT
from tests.toys.planted_nan import equal, stop_in_sixth


@pytest.fixture(scope='module')
def stopped(photos, tmp_path_factory):  # noqa: F811
    return stop_in_sixth(photos, tmp_path_factory.mktemp('stopped'))


@pytest.fixture(scope='module')
def main():
    return runpy.run_path(str(ROOT / 'tools' / 'replay_step.py'))['main']


def test_the_dump_repeats_the_step(stopped, main, capsys):
    work_dir, runner, watch, message = stopped
    dump = read_dump(str(work_dir / 'nonfinite_iter_6_rank_0.pth'))
    assert equal(dump['weights'], watch.states[5][0])
    assert [osp.basename(name) for name in dump['images']] == [
        '04.png', '05.png', '06.png', '07.png']
    command = message.split('tools/replay_step.py ')[1].split()
    config, line_end, path = command[:3]
    assert line_end == '\\'
    assert main([config, path]) == 0
    said = capsys.readouterr().out
    assert 'loss_recon               nan           nan' in said
    assert 'The images are not finite after the data preprocessor' in said
    assert ('The first that is not finite: the output of backbone.'
            'patch_embed.') in said and 'whose input is not finite' in said
    assert 'The losses are the same as in the run.' in said


def test_refusals(main, tmp_path, capsys):
    torch.save(dict(state_dict={}), tmp_path / 'epoch_1.pth')
    (tmp_path / 'text.pth').write_text('no dump')
    (tmp_path / 'config.py').write_text('model = dict()')
    for arguments, message in (
        (['gone.py', 'x.pth'], "There is no config 'gone.py'"),
        (['{}/config.py', 'gone.pth'], "There is no dump 'gone.pth'"),
        (['{}/config.py', '{}/text.pth'], 'is damaged or no dump'),
        (['{}/config.py', '{}/epoch_1.pth'], 'Checkpoints are not dumps'),
    ):
        with pytest.raises(SystemExit) as stop:
            main([part.format(tmp_path) for part in arguments])
        assert stop.value.code == 2
        assert message in capsys.readouterr().err
