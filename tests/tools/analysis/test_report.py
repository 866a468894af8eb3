"""The command line: what is refused, what is left out, what is written."""
import re
import runpy
import sys
from pathlib import Path

import pytest

from tests.toys import needs_report  # noqa: F401
from tests.toys.work_dirs import line, write_killed, write_start
from tests.toys.models import ROOT

SCRIPT = str(ROOT / 'tools' / 'analysis' / 'report.py')


@pytest.fixture
def killed(tmp_path):
    return write_killed(tmp_path / 'dmae')


def main(monkeypatch, *arguments):
    monkeypatch.setattr(sys, 'argv', [SCRIPT, *map(str, arguments)])
    runpy.run_path(SCRIPT, run_name='__main__')


def test_command_line(killed, tmp_path, monkeypatch, capsys):
    (tmp_path / 'empty').mkdir()
    write_start(tmp_path / 'silent', '20260101_000000', [])
    out = tmp_path / 'page.html'
    main(monkeypatch, killed, tmp_path / 'empty', killed / '.' / '..' / 'dmae',
         tmp_path / 'silent', '--out', out, '--max-pictures-mb', '0')
    shown = capsys.readouterr()
    assert f'{out}: 1 run, ' in shown.out and 'silent' not in shown.out
    assert 'dmae: 20260102_000000 went on from iteration 10' in shown.out
    assert 'empty is no work dir of a run' in shown.err
    assert 'silent has no logged values yet' in shown.err
    text = out.read_text()
    assert 'Not in this page' in text and '3 more were left out' in text
    assert not list(tmp_path.glob('.writing*'))


@pytest.mark.parametrize('arguments, message', [
    (['{}/gone'], 'there is no .*gone'),
    (['{}/dmae', '--out', '{}/no/page.html'], 'there is no folder .*/no'),
    (['{}/dmae', '--out', '{}/dmae'], '--out .*dmae: there is no folder'),
    (['{}/dmae', '--max-pictures-mb', '-1'], '-1.0 must be 0 or above'),
    (['{}'], 'is no work dir .*; give those below it: .*dmae'),
    (['{}/dmae/20260101_000000'], 'one start of a run; give .*dmae'),
    (['{}/file'], 'file is no folder; give the work dir'),
])
def test_refused(arguments, message, killed, tmp_path, monkeypatch, capsys):
    (tmp_path / 'file').write_text('')
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(monkeypatch, *(text.format(tmp_path) for text in arguments))
    assert stopped.value.code
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / 'report.html').exists()


def test_a_page_that_cannot_be_written_leaves_the_last(killed, tmp_path,
                                                       monkeypatch):
    out = tmp_path / 'page.html'
    out.write_text('the last')

    def full(*args, **kwargs):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(Path, 'write_text', full)
    with pytest.raises(SystemExit, match='page.html cannot be written: .*No'):
        main(monkeypatch, killed, '--out', out)
    assert out.read_text() == 'the last'


def test_names_are_as_short_as_they_differ(tmp_path, monkeypatch):
    for name in ('seed0/dmae', 'seed1/dmae', 'mae'):
        write_start(tmp_path / name, '20260101_000000', [line(5, 1.)])
    monkeypatch.chdir(tmp_path / 'seed0')
    main(monkeypatch, 'dmae', '../seed1/dmae', '../mae')
    text = Path('report.html').read_text()
    assert '<h1>seed0/dmae, seed1/dmae, mae</h1>' in text


@pytest.mark.parametrize('package', ['plotly.subplots', 'jinja2'])
def test_a_missing_package_is_named(package, monkeypatch):
    for name in [name for name in sys.modules
                 if name.startswith('dmae_mm.evaluation.report')]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(SystemExit, match=package + r'.*"dmae_mm\[report\]"'):
        main(monkeypatch, 'run')
