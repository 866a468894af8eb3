"""After the training: what was made is kept, what failed loses no other."""
import json
import sys
from functools import partial
from types import SimpleNamespace

import pytest

from dmae_mm import distill
from dmae_mm.__main__ import run
from dmae_mm.weights.export import FORMATS
from dmae_mm.weights.export.student_file import StudentFile
from dmae_mm.workflow import compared_models, student_exports
from dmae_mm.workflow.student_exports import FILES
from tests.toys import needs_report  # noqa: F401
from tests.toys.folders import write_classes
from tests.toys.distilled import finished_run

ROWS = [dict(name=name, knn=90.5, linear=80.25, parameters=1e6, k=5, width=8,
             img_size=32, train_images=4, test_images=4, classes=2,
             features='mean')
        for name in ('student', 'untrained student', 'teacher x')]


def write(config, checkpoint, path, names='timm', usage=''):
    with open(path, 'w') as file:
        file.write(names)
    return StudentFile(names, usage or f'timm.load({path!r})', ['keep dry'])


@pytest.fixture
def arguments(tmp_path, monkeypatch):
    """Of a result whose training is finished; nothing of it is computed."""
    write_classes(tmp_path / 'labels', 2, 4, 0)
    exported, probed = [], []

    def export(config, checkpoint, path, to, overwrite, **options):
        assert overwrite
        exported.append(to)
        if to == 'mmseg':
            raise ValueError('mmseg cannot express it')
        with open(path, 'w') as file:
            file.write(to)
        return SimpleNamespace(
            notes=['keep dry'], usage=f'load({path!r})', loaded_by=to,
            differences=dict(tokens=0.))

    def probe(models, *args, **options):
        model, = models
        probed.append(model.name)
        if model.model == 'test_vit2':
            raise ValueError('no last block')
        return [ROWS[('student', 'untrained student').index(model.name)
                     if 'student' in model.name else 2]]

    monkeypatch.setattr(student_exports, 'export_checkpoint', export)
    monkeypatch.setattr(student_exports, 'write_student', write)
    monkeypatch.setattr(compared_models, 'probe_models', probe)
    given = finished_run(tmp_path, labels=tmp_path / 'labels')
    return SimpleNamespace(given=given, exported=exported, probed=probed)


def test_everything_is_made_once(arguments, capsys, tmp_path):
    result = distill(**arguments.given, to=['mmpretrain'])
    out = tmp_path / 'out'
    assert result.exports == dict(timm=f'{out}/student.safetensors',
                                  mmpretrain=f'{out}/student_mmpretrain.pth')
    assert result.checkpoint == f'{out}/epoch_2.pth'
    assert json.loads(
        (out / 'evaluation.json').read_text())['rows'] == ROWS
    assert result.failed == []
    page = (out / 'report.html').read_text()
    assert page.count('<td>90.5</td>') == 3 and 'teacher x' in page
    said = capsys.readouterr().out
    assert 'the training is finished' in said and '80.25' in said
    assert f"load('{out}/student_mmpretrain.pth')" in said
    assert 'Note on student.safetensors: keep dry.' in said
    assert result.usage['timm'].startswith(
        'import timm\nstudent = timm.load(')

    before = (out / 'report.html').stat().st_mtime_ns
    assert distill(**arguments.given, to=['mmpretrain']) == result
    assert arguments.exported == ['mmpretrain']
    assert len(arguments.probed) == 3
    assert (out / 'report.html').stat().st_mtime_ns == before
    # Another checkpoint is another student.
    finished_run(tmp_path, epoch=3)
    assert distill(**arguments.given).checkpoint == f'{out}/epoch_3.pth'
    assert arguments.exported == ['mmpretrain']
    assert len(arguments.probed) == 6


def test_an_export_that_fails_loses_no_other(arguments, capsys, tmp_path):
    result = distill(**arguments.given, to=['mmseg', 'mmpretrain'])
    assert {*result.exports} == {'timm', 'mmpretrain'} and result.report
    assert result.failed == ['The export to mmseg: mmseg cannot express it']
    said = capsys.readouterr().out
    assert 'Not made:\n- The export to mmseg: mmseg cannot' in said
    again = said[said.index('the same command makes it'):].splitlines()[1]
    assert '--to mmseg mmpretrain' in again
    distill(**arguments.given, to=['mmseg', 'mmpretrain'])
    assert arguments.exported == ['mmseg', 'mmpretrain', 'mmseg']


def test_a_teacher_that_has_no_last_block_is_left_out(arguments, capsys):
    arguments.given['teacher'] = 'test_vit2'
    finished = arguments.given['out']
    state = json.loads((finished / 'distill.json').read_text())
    state['arguments']['teacher'] = ['test_vit2']
    (finished / 'distill.json').write_text(json.dumps(state))
    result = distill(**arguments.given)
    assert [row['name'] for row in result.evaluation['rows']] == [
        'student', 'untrained student']
    assert 'The teacher test_vit2 is not evaluated: no last block' in (
        capsys.readouterr().out)


def test_a_student_that_is_not_for_timm_has_its_own_names(
        arguments, monkeypatch):

    def refuse(*args, **options):
        raise ValueError('timm has no such model')

    monkeypatch.setattr(student_exports, 'export_checkpoint', refuse)
    monkeypatch.setattr(
        student_exports, 'write_student',
        partial(write, names='SwinTransformer', usage='build(...)'))
    result = distill(**arguments.given)
    assert result.usage == dict(SwinTransformer='build(...)')
    assert result.failed == []
    assert distill(**arguments.given, to='timm').failed == [
        'The export to timm: timm has no such model']


def test_the_packages_of_the_report_are_named(arguments, monkeypatch):
    for name in [*sys.modules]:
        if name.startswith('dmae_mm.evaluation.report'):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, 'plotly', None)
    result = distill(**arguments.given)
    assert 'pip install "dmae_mm[report]"' in result.failed[0]
    assert result.report is None and result.exports


def test_the_code_for_timm(monkeypatch):
    line = "timm.create_model('x', **{'input_size': (3, 224, 224)})"
    usage = student_exports._in_timm(line, 224)
    assert 'student = ' + line + '.eval()' in usage
    assert 'input_size=' not in usage
    assert 'config(student), input_size=(3, 64, 64)))' in (
        student_exports._in_timm(line, 64))
    assert 'import functools, timm, torch\n' in student_exports._in_timm(
        f'{line} functools.partial(torch.nn', None)


def test_each_format_has_a_name():
    assert FILES.keys() == FORMATS.keys()
    for to, name in FILES.items():
        assert '.' not in name if to == 'transformers' else (
            name.endswith(FORMATS[to].endings)), to


def test_packages_of_a_format_are_asked_for_at_the_start(
        arguments, monkeypatch):
    monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
    with pytest.raises(ValueError, match='pip install "dmae_mm'):
        distill(**arguments.given, to='onnx')
    assert arguments.exported == []


def test_python_m_dmae_mm(arguments, capsys):
    given = arguments.given
    run(['distill', str(given['images']), '--teacher', given['teacher'],
         '--student', given['student'], '--out', str(given['out'])])
    assert 'the training is finished' in capsys.readouterr().out
    for argv, status in (([], 2), (['distil'], 2), (['--help'], 0)):
        with pytest.raises(SystemExit) as error:
            run(argv)
        assert error.value.code == status
        said = capsys.readouterr()
        assert 'python -m dmae_mm {distill}' in (
            said.out if status == 0 else said.err)
