"""The study on photographs, with a few images and one epoch."""
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from studies import photograph_jobs
from studies import photograph_study as tool
from studies.photograph_jobs import DEFAULTS, ONCE
from studies.study_jobs import fingerprint
from tests.toys.models import ROOT
from tests.toys.photographs import setting, write_photographs

DATA = dict(
    all=50,
    train=40,
    test=10,
    classes=['a', 'b'],
    digests=dict(all='0', train='1', test='2'))
HEAD = dict(data=DATA, code={'dmae_mm/models': 'a'})
JOBS = ('teacher', 'mae', 'dmae', 'labels10_dmae')


@pytest.fixture
def jobs(monkeypatch):
    monkeypatch.setattr(tool, 'code_marks', dict)
    monkeypatch.setattr(photograph_jobs, 'cost_of', lambda *args: 1.)
    monkeypatch.setattr(tool, 'gflop_per_image', lambda cfg: 0.5)
    found = tool.all_jobs(setting())
    return [job for job in found if job.name in JOBS]


def finish(cfg, files=True):
    """What a job leaves behind."""
    os.makedirs(cfg.work_dir)
    result = dict(fingerprint=fingerprint(cfg), seconds=1., knn=50.)
    Path(cfg.work_dir, 'result.json').write_text(json.dumps(result))
    if files:
        Path(cfg.work_dir, 'final.pth').touch()
    return result


def test_all_seeds_share_the_teacher(jobs):
    runs = tool.configs(jobs, 2, setting(), HEAD)
    assert list(runs) == [(ONCE, 'teacher'), *(
        (seed, name) for seed in (0, 1) for name in JOBS[1:])]
    teacher = runs[ONCE, 'teacher']
    assert teacher.train_dataloader.dataset.data_root == 'data/toy/all'
    for seed in (0, 1):
        cfg = runs[seed, 'dmae']
        assert cfg.needs == {'teacher': fingerprint(teacher)}
        assert cfg.model.teacher.checkpoint == 'out/once/teacher/final.pth'
        assert cfg.randomness.seed == seed
        assert (runs[seed, 'labels10_dmae'].model.backbone.init_cfg.checkpoint
                == f'out/seed{seed}/dmae/final.pth')


def test_what_is_left_elsewhere(jobs, tmp_path, monkeypatch):
    """Only the results came along: checkpoints are made again where needed."""
    monkeypatch.chdir(tmp_path)
    runs = tool.configs(jobs, 1, setting(), HEAD)
    file = 'results/toy.json'
    results = tool.Results(file, DATA)
    assert results.finished(runs) == set()
    assert tool.still_to_run(runs, set()) == {*runs}
    for key, cfg in runs.items():
        results.record(key, finish(cfg), cfg)
    assert results.finished(runs) == {*runs}

    shutil.rmtree('out')
    again = tool.Results(file, DATA)
    assert again.jobs == results.jobs
    assert again.result((0, 'dmae'))['tflop'] == 0.5 * 40 * 4 / 1000
    assert again.result((0, 'labels10_dmae'))['tflop'] == pytest.approx(
        0.5 * 4 * 15 / 1000)
    assert tool.still_to_run(runs, again.finished(runs)) == set()
    del again.jobs['seed0/labels10_dmae']
    assert tool.still_to_run(runs, again.finished(runs)) == {
        (0, 'labels10_dmae'), (0, 'dmae'), (ONCE, 'teacher')}
    # A teacher that is there is not trained again; one without its file is.
    finish(runs[ONCE, 'teacher'])
    assert tool.still_to_run(runs, again.finished(runs)) == {
        (0, 'labels10_dmae'), (0, 'dmae')}
    # Other code is another result, and so are other images.
    for change in (dict(code={'dmae_mm/models': 'b'}),
                   dict(data=dict(DATA, digests=dict(
                       all='0', train='1', test='3')))):
        other = tool.configs(jobs, 1, setting(), {**HEAD, **change})
        kept = again.finished(other)
        assert kept == ({(ONCE, 'teacher')} if 'data' in change else set())
    # Another recipe is another result.
    runs[0, 'mae'].model.backbone.mask_ratio = 0.5
    assert (0, 'mae') not in again.finished(runs)


def test_what_was_killed_before_it_was_recorded(jobs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs = tool.configs(jobs, 1, setting(), HEAD)
    finish(runs[0, 'mae'])
    results = tool.Results('toy.json', DATA)
    assert results.finished(runs) == {(0, 'mae')}
    assert json.loads(Path('toy.json').read_text())['jobs'].keys() == {
        'seed0/mae'}


@pytest.mark.parametrize('part, name', [('versions', 'torch'),
                                        ('code', 'dmae_mm/models'),
                                        ('data', 'digests')])
def test_other_code_is_refused(part, name, tmp_path, monkeypatch):
    monkeypatch.setattr(tool, 'code_marks', lambda: {'dmae_mm/models': 'a'})
    file = tmp_path / 'toy.json'
    results = tool.Results(str(file), DATA)
    head = json.loads(json.dumps(results.head))
    head[part][name] = 'other'
    file.write_text(json.dumps(dict(head, machines=['x'], jobs={'a': {}})))
    with pytest.raises(ValueError, match=f'{name} \\(other, now .*--anew'):
        tool.Results(str(file), DATA)
    assert tool.Results(str(file), DATA, anew=True).jobs == {}
    file.write_text(
        json.dumps(dict(results.head, machines=['x'], jobs={'a': {}})))
    again = tool.Results(str(file), DATA)
    assert again.jobs == {'a': {}}
    assert again.machines == ['x', tool.machine()]


def test_comments_are_no_other_code(tmp_path, monkeypatch):
    monkeypatch.setattr(tool, 'CODE', ('code.py', ))
    marks = []
    for text in ('def f():\n    """A."""\n    return 1\n',
                 'def f():\n    """B."""\n\n    return 1  # one\n',
                 'def f():\n    """A."""\n    return 2\n'):
        (tmp_path / 'code.py').write_text(text)
        marks.append(tool.code_marks(tmp_path)['code.py'])
    assert marks[0] == marks[1] != marks[2]


def test_a_stopped_teacher_goes_on(jobs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    seen = []
    monkeypatch.setattr(
        tool, 'run_job', lambda cfg, data_dir, resume: seen.append(resume))
    cfg = tool.load(jobs[0], 0, setting())
    assert cfg.default_hooks.checkpoint.interval == 1
    tool.run_photographs(cfg, 'data')
    tool.run_photographs(cfg, 'data')  # before its first checkpoint
    Path(cfg.work_dir, 'epoch_1.pth').touch()
    Path(cfg.work_dir, 'last_checkpoint').write_text(
        f'{cfg.work_dir}/epoch_1.pth')
    tool.run_photographs(cfg, 'data')
    cfg.model.backbone.mask_ratio = 0.5
    tool.run_photographs(cfg, 'data')
    assert seen == [False, False, True, False]


def test_choices(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert tool.read_choices('toy') == DEFAULTS
    os.makedirs('studies/results')
    Path('studies/results/toy_choices.json').write_text('{"lr": 1}')
    assert tool.read_choices('folder/toy') == {'lr': 1}


@pytest.mark.parametrize('options, message', [
    (['--data', 'nowhere'], "no folder 'nowhere/train'"),
    (['--data', 'cifar10', '--seeds', '1'], 'an interval needs at least 2'),
])
def test_bad_input(options, message, tmp_path, monkeypatch, capsys):
    from studies import study
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'argv', ['study.py', *options])
    with pytest.raises(SystemExit):
        study.main()
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_run_and_go_on_elsewhere(tmp_path):
    """Four jobs and the choice through the command, then with nothing but
    the results."""
    write_photographs(tmp_path / 'toy', train=70, test=10)
    script = tmp_path / 'run.py'
    script.write_text(f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from studies import photograph_jobs, photograph_study, study
wanted = {JOBS!r}
jobs = photograph_study.all_jobs
photograph_study.all_jobs = lambda setting: [
    job for job in jobs(setting) if job.name in wanted]
grid = photograph_study.choice_jobs
photograph_study.choice_jobs = lambda setting: [
    job for job in grid(setting) if job.name.startswith('l2')]
photograph_jobs.cost_of = lambda *args: 1.
if __name__ == '__main__':
    study.main()
""")
    epoch = ['--cfg-options', 'train_cfg.max_epochs=1',
             'train_dataloader.batch_size=16',
             'default_hooks.checkpoint.interval=1']

    def run(*options) -> str:
        result = subprocess.run(
            [sys.executable, script, '--data', 'toy', *options],
            cwd=tmp_path,
            env=dict(os.environ, PYTHONPATH=str(ROOT)),
            capture_output=True,
            text=True)
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    folder = tmp_path / 'work_dirs' / 'study_toy_changed'
    said = run('--seeds', '2', *epoch)
    assert '7 trainings, 0 of them finished before' in said
    first = json.loads((folder / 'results.json').read_text())
    assert len(first['jobs']) == 7
    assert first['data']['train'] == 140
    for name, result in first['jobs'].items():
        assert {'seconds', 'tflop', 'fingerprint', 'machine'} < {*result}
        assert ('top1' in result) == ('labels' in name)
    page = (folder / 'results-photographs.md').read_text()
    assert 'This is not the recipe' in page
    assert '| DMAE is better than plain MAE, equal updates | kNN |' in page
    assert not (tmp_path / 'docs').exists()

    # Elsewhere: no checkpoints, and one result less.
    del first['jobs']['seed1/labels10_dmae']
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
    (folder / 'results.json').write_text(json.dumps(first))
    assert '7 trainings, 4 of them finished before' in run(
        '--seeds', '2', *epoch)
    second = json.loads((folder / 'results.json').read_text())
    assert len(second['jobs']) == 7
    for name in ('once/teacher', 'seed1/dmae'):
        assert (second['jobs'][name]['knn'], second['jobs'][name]['linear']
                ) == (first['jobs'][name]['knn'],
                      first['jobs'][name]['linear'])

    run('--choose', *epoch)
    best = json.loads(
        (tmp_path / 'studies/results/toy_choices.json').read_text())
    assert best['weights']['l2'] in (100, 300, 900)
    assert best['lr'] == DEFAULTS['lr']
