"""What is read of runs, whole, resumed, killed or damaged."""
import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.toys import needs_report  # noqa: F401
from dmae_mm.evaluation.report import Run
from dmae_mm.evaluation.report.run import Start
from tests.toys.work_dirs import line, write_killed, write_start
from tests.toys.runs import config, run


@pytest.fixture
def killed(tmp_path):
    return write_killed(tmp_path / 'dmae')


def test_starts_are_joined(killed):
    joined = Run(killed, 'dmae')
    loss = joined.curves['loss']
    assert math.isnan(loss.pop(30))
    assert loss == {5: 9., 10: 8., 15: 6.5, 20: 5.5, 25: 4.5}
    assert joined.repeated['loss'] == [{15: 7., 20: 6., 25: 5.}]
    assert joined.curves['probe/knn'] == {10: 50., 20: 61.}
    assert joined.repeated['probe/knn'] == [{20: 60.}]
    assert joined.curves['accuracy/top1'] == {20: 70.}
    assert joined.curves['val/mIoU'] == {20: 3.}
    assert joined.measured == {'probe/knn', 'accuracy/top1', 'val/mIoU'}
    # 8 images in each of 2 processes, in half a second.
    assert set(joined.curves['images/s'].values()) == {32.}
    steps = joined.pictures['x']
    assert {step: path.parts[-4] for step, path in steps.items()} == {
        10: '20260101_000000', 20: '20260102_000000', 30: '20260102_000000'}
    assert (joined.starts[-1].last, joined.total) == (30, 30)
    assert joined.per_iteration('epochs') == 0.1
    assert joined.per_iteration('images seen') == 16
    assert joined.starts[0].environment == {
        'Python': '3.11.7 (main) [GCC 12.2.0]', 'seed': '5',
        'PyTorch compiling details': 'PyTorch built with:',
        'GPU number': '2', 'Command': 'tools/train.py c.py'}
    notes = '\n'.join(joined.notes)
    assert 'scalars.json has 1 broken line (8), as a kill' in notes
    assert ('went on from iteration 10: what the start before had done up to '
            'iteration 25 was done again' in notes)
    assert 'loss is nan at iteration 30.' in notes
    assert len(joined.notes) == 3


def test_a_run_that_began_anew_and_a_changed_config(tmp_path):
    write_start(tmp_path / 'a', '20260101_000000', [line(5, 1.), line(10, 2.)])
    write_start(tmp_path / 'a', '20260102_000000', [line(10, 3.)], mask=0.9)
    joined = Run(tmp_path / 'a', 'a')
    assert joined.curves['loss'] == {10: 3.}
    assert joined.repeated['loss'] == [{5: 1., 10: 2.}]
    assert joined.notes[0].startswith('20260102_000000 began anew: what')
    assert joined.notes[1] == ('The config is not that of the first start in '
                                'model.backbone.mask_ratio.')


def test_without_a_log_the_first_iteration_tells(tmp_path):
    write_start(tmp_path / 'a', '20260101_000000', [line(i, 1.) for i in
                                                    (2, 4, 6, 8)])
    folder = write_start(tmp_path / 'a', '20260102_000000', [line(6, 2.)])
    (folder / '20260102_000000.log').unlink()
    joined = Run(tmp_path / 'a', 'a')
    assert joined.curves['loss'] == {2: 1., 4: 1., 6: 2.}
    assert joined.starts[1].first == 5
    assert 'images/s' in joined.curves and 'iterations/s' in joined.curves
    assert joined.per_iteration('images seen') is None
    assert any('.log cannot be read: No such file' in note
               for note in joined.notes)


def test_values_of_epochs_stand_where_the_epoch_ended(tmp_path):
    """The last line of an epoch of 10 iterations may be its ninth."""
    lines = [line(9, 1.), {'acc': 1., 'step': 1}, line(19, 1.),
             {'acc': 2., 'step': 2}, {'by_iteration': 3., 'step': 20}]
    start = Start(write_start(tmp_path, '20260101_000000', lines))
    assert start.curves['val/acc'] == {10: 1., 20: 2.}
    assert start.curves['val/by_iteration'] == {20: 3.}


@pytest.fixture(scope='module')
def seven(tmp_path_factory):
    return write_start(tmp_path_factory.mktemp('cut'), '20260101_000000',
                       [line(i, 1. + i) for i in range(1, 8)])


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_any_cut_of_any_file_is_read(data, seven):
    """What is whole before the cut is there, whatever follows it."""
    name = data.draw(st.sampled_from(
        ['vis_data/scalars.json', 'vis_data/config.py',
         '20260101_000000.log']))
    whole = (seven / name).read_bytes()
    cut = data.draw(st.integers(0, len(whole)))
    junk = data.draw(st.binary(max_size=20))
    (seven / name).write_bytes(whole[:cut] + junk)
    try:
        loss = Start(seven).curves.get('loss', {})
    finally:
        (seven / name).write_bytes(whole)
    lines = whole[:cut].count(b'\n') if 'scalars' in name else 7
    assert [loss.get(i) for i in range(1, lines + 1)] == [
        1. + i for i in range(1, lines + 1)]


@pytest.mark.parametrize('text', [
    '[1, 2]', '"text"', '{"iter": "no", "loss": 1}', '{"iter": null}',
    '{"loss": {"a": 1}, "iter": 1, "name": "x", "on": true}', 'NaN', '[' * 9999
])
def test_lines_that_are_none(text, tmp_path):
    folder = write_start(tmp_path, '20260101_000000', [line(1, 1.)])
    with open(folder / 'vis_data' / 'scalars.json', 'a') as file:
        file.write(text + '\n')
    start = Start(folder)
    assert start.curves['loss'] == {1: 1.}
    note, = start.notes
    assert '1 broken line (2)' in note or (
        'no numbers and are not drawn: loss, name, on' in note)


def test_a_failed_start_is_noted_once(tmp_path):
    failed = write_start(tmp_path, '20260101_000000', [])
    (failed / 'vis_data' / 'scalars.json').unlink()
    assert Run(tmp_path, 'run').notes == []  # what shows it says it
    write_start(tmp_path, '20260102_000000', [line(5, 9.)])
    assert Run(tmp_path, 'run').notes == [
        '20260101_000000 has no logged values.']


def test_a_resumed_run_of_the_runner(photos, tmp_path,  # noqa: F811
                                     monkeypatch):
    """Logs as MMEngine writes them, not as this file thinks that it does."""
    cfg = config(photos, tmp_path / 'run', 2)
    _, first = run(cfg, log_level='INFO')
    # Folders are named by the second: two of one would be one start.
    now = time.time
    monkeypatch.setattr(time, 'time', lambda: now() + 5)
    _, second = run(cfg, resume=True, train_cfg=dict(max_epochs=3),
                    log_level='INFO')
    joined = Run(tmp_path / 'run', 'run')
    wanted = [step['loss'] for step in first + second]
    assert joined.curves['loss'] == pytest.approx({  # means of ten
        i: np.mean(wanted[max(0, i - 10):i]) for i in range(1, 13)})
    assert [start.first for start in joined.starts] == [0, 8]
    assert joined.starts[1].environment['seed'] == '0'
    assert joined.per_iteration('epochs') == 0.25
    assert joined.notes == ['The config is not that of the first start in '
                            'experiment_name, train_cfg.max_epochs.']
    assert joined.total == 12


def test_what_the_start_said_of_the_learning_rate(tmp_path):
    for name in '20260101_000000', '20260102_000000':
        write_start(tmp_path / 'a', name, [line(10, 3.)])
        log = tmp_path / 'a' / name / f'{name}.log'
        log.write_text('2026/01/01 00:00:00 - mmengine - WARNING - Note: the '
                       'learning rate is high\n' + log.read_text() +
                       '2026/01/01 00:00:01 - mmengine - WARNING - other\n')
    notes = Run(tmp_path / 'a', 'a').notes
    assert notes.count('Said at the start: the learning rate is high.') == 1
