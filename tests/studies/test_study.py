"""The study, with one epoch instead of many."""
import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmpretrain.registry import MODELS

from studies import study as tool
from studies import study_page
from studies.seeds import half_width, interval
from studies.study_jobs import (Job, all_jobs, fingerprint, finished_result,
                                load_config)
from tests.toys.models import ROOT
from tests.toys.recipes import differences

JOBS = {job.name: job for job in all_jobs()}
EPOCH = {
    'train_cfg.max_epochs': 1,
    'train_cfg.val_interval': 1,
    'default_hooks.checkpoint.interval': 1,
    'train_dataloader.batch_size': 128,
    'train_dataloader.dataset.indices': 256
}


def config(job: Job, **extra):
    return load_config(job, 0, 'data/digits', 'out', extra)


def test_jobs_come_behind_those_that_they_need():
    names = [job.name for job in all_jobs()]
    assert len(names) == len(set(names)) == 29
    for index, job in enumerate(all_jobs()):
        assert set(job.needs) <= set(names[:index])
    assert JOBS['teacher'].needs == JOBS['mae'].needs == []
    assert JOBS['dmae'].needs == ['teacher']
    assert sorted(JOBS['finetune-tenth_dmae+logits'].needs) == [
        'dmae', 'teacher-finetuned-tenth'
    ]


@pytest.mark.parametrize('name', JOBS)
def test_job(name):
    """Its model can be built, and each of its options changes something."""
    job = JOBS[name]
    cfg = config(job)
    MODELS.build(cfg.model)
    for option in job.options:
        without = config(
            Job(job.name, job.config, {
                key: value
                for key, value in job.options.items() if key != option
            }))
        changed = differences(cfg.to_dict(), without.to_dict())
        # Some train for the 20 epochs that are in the config already.
        assert changed or job.options[option] == 20, option
        assert {path.split('.')[0]
                for path in changed} <= {option.split('.')[0]}


@pytest.mark.parametrize('name, other, wanted', [
    ('dmae', 'mae', ['model.aligned_layers', 'model.teacher']),
    ('dmae-mask95', 'dmae', ['model.backbone.mask_ratio']),
    ('dmae-depth100', 'dmae', ['model.aligned_layers']),
    ('dmae-weight1', 'dmae', ['model.distill_loss.loss_weight']),
    ('dmae-light-decoder', 'dmae',
     ['model.neck.predict_ratio', 'model.neck.type']),
    ('dmae-finetuned-teacher', 'dmae', ['model.teacher.checkpoint']),
    ('finetune_dmae', 'finetune_mae', ['model.backbone.init_cfg.checkpoint']),
    ('finetune-tenth_scratch+hard-logits', 'finetune-tenth_scratch+logits', [
        'model.logit_loss.mode', 'model.logit_loss.temperature'
    ]),
    ('finetune_dmae+logits', 'finetune_dmae',
     ['model.logit_loss', 'model.teacher', 'model.type']),
])
def test_what_is_compared_differs_in_one_thing(name, other, wanted):
    ours, theirs = (config(JOBS[job]).to_dict() for job in (name, other))
    assert [
        path for path in differences(ours, theirs) if path != 'work_dir'
    ] == wanted


@pytest.fixture(scope='module')
def study(tmp_path_factory):
    """Runs three of the jobs of a seed, through the study's own code."""
    folder = tmp_path_factory.mktemp('study')
    script = folder / 'run.py'
    script.write_text(f"""
import json, sys
sys.path.insert(0, {str(ROOT)!r})
from studies import study
if __name__ == '__main__':
    data = study.write_digits()
    images = study.class_images(data + '/train')
    study.write_list(f'{{data}}/tenth_seed0.txt',
                     study.balanced_subset(images, 10, 0), False)
    runs = study.prepare(1, data, 'out', json.loads(sys.argv[1]))
    wanted = ('teacher', 'dmae', 'finetune_dmae')
    runs = {{key: cfg for key, cfg in runs.items() if key[1] in wanted}}
    study.run_all(runs, data, 2)
""")

    def run() -> str:
        result = subprocess.run(
            [sys.executable, script, json.dumps(EPOCH)],
            cwd=folder,
            env=dict(os.environ, PYTHONPATH=str(ROOT)),
            capture_output=True,
            text=True)
        assert result.returncode == 0, result.stdout + result.stderr
        assert 'Warning' not in result.stderr
        return result.stdout

    return folder, run


def results(folder: Path) -> dict:
    return {
        path.parent.relative_to(folder / 'out').as_posix():
        (path.stat().st_mtime_ns, json.loads(path.read_text()))
        for path in folder.glob('out/*/*/result.json')
    }


@pytest.mark.slow
def test_run_resume_and_run_again(study):
    folder, run = study
    said = run()
    assert '3 trainings, 0 of them finished before, 2 at a time' in said
    assert said.count('min left') == 3
    first = results(folder)
    assert len(first) == 3
    for name, (_, result) in first.items():
        metrics = {'top1'} if 'finetune' in name else {'knn', 'linear'}
        assert result.keys() == {'fingerprint', 'seconds', *metrics}
        for metric in metrics:
            assert 0 <= result[metric] <= 100

    # What was stopped runs again and only that, to the same result.
    (folder / 'out/seed0/dmae/result.json').unlink()
    assert '3 trainings, 2 of them finished before' in run()
    second = results(folder)
    changed = [name for name in first if first[name] != second[name]]
    assert changed == ['seed0/dmae']
    for metric in ('knn', 'linear', 'fingerprint'):
        assert second['seed0/dmae'][1][metric] == first['seed0/dmae'][1][
            metric]


def test_result_of_another_recipe_is_not_taken_over(tmp_path):
    cfg = config(JOBS['mae'], work_dir=str(tmp_path))
    assert finished_result(cfg) == {}
    stored = dict(fingerprint=fingerprint(cfg), knn=1.)
    (tmp_path / 'result.json').write_text(json.dumps(stored))
    assert finished_result(cfg) == stored
    cfg.model.backbone.mask_ratio = 0.5
    assert finished_result(cfg) == {}


def test_teacher_trained_anew_retrains_its_students():
    runs = tool.prepare(1, 'data/digits', 'out', {})
    other = tool.prepare(1, 'data/digits', 'out',
                         {'optim_wrapper.optimizer.lr': 1.0})
    key = (0, 'finetune-tenth_dmae+logits')
    assert runs[key].needs.keys() == {'dmae', 'teacher-finetuned-tenth'}
    for name, mark in runs[key].needs.items():
        assert mark == tool.fingerprint(runs[0, name])
        assert mark != other[key].needs[name]


@pytest.fixture
def made_up():
    """Results of three seeds; DMAE is 4 to 6 points better than MAE in kNN,
    0 to 2 worse in linear probing."""
    random = np.random.RandomState(0)
    made = {}
    for seed in range(3):
        for name in JOBS:
            metrics = ('knn', 'linear') if name.split('-')[0] in (
                'teacher', 'mae', 'dmae') and 'teacher-fine' not in name else (
                    'top1', )
            made[seed, name] = dict(
                seconds=60., **{m: 90 + random.rand() for m in metrics})
        made[seed, 'mae'].update(knn=80., linear=95.)
        made[seed, 'dmae'].update(knn=84. + seed, linear=95. - seed)
    return made


def test_statistics_by_hand(made_up):
    values = study_page.by_seed(made_up)
    assert values('dmae', 'knn').tolist() == [84, 85, 86]
    # Standard deviation 1, so 4.303 (Student's t, 2 degrees) / sqrt(3).
    assert half_width(np.array([84., 85., 86.])) == pytest.approx(
        2.4841, abs=1e-4)
    assert interval(np.array([4., 5., 6.]), '+') == '+5.00 ± 2.48'
    by_hand = {('kNN', 'holds', 5), ('linear probe', '**not shown**', -1)}
    assert by_hand == {
        (metric, study_page.verdict(difference), difference.mean())
        for claim, metric, difference in study_page.claims(values)
        if claim == 'DMAE is better than plain MAE'
        and 'tuned' not in metric
    }
    assert study_page.verdict(np.array([-4., -5., -6.])) == '**the opposite**'


def test_page(made_up, tmp_path):
    file = study_page.write_page(
        made_up, str(tmp_path), command='make study', processes=2)
    page = Path(file).read_text()
    assert ('| DMAE is better than plain MAE | kNN | +5.00 ± 2.48 | holds |'
            in page)
    assert '| plain MAE | 80.00 ± 0.00 | 95.00 ± 0.00 |' in page
    assert '87 trainings with 3 seeds, 87 minutes' in page.replace('\n', ' ')
    for image in ('study_frozen.png', 'study_finetuning.png'):
        assert f'(images/{image})' in page
        picture = cv2.imread(str(tmp_path / 'images' / image))
        assert picture.shape[1] >= 1000 and picture.std() > 20

    # What people wrote stays, what was measured is replaced.
    Path(file).write_text(page.replace('Not written yet.', 'Because ...'))
    made_up[0, 'mae']['knn'] = 79.
    study_page.write_page(
        made_up, str(tmp_path), command='make study', processes=2)
    again = Path(file).read_text()
    assert again.endswith('## Discussion (written by hand)\n\nBecause ...\n')
    assert '| plain MAE | 79.67 ± 1.43 | 95.00 ± 0.00 |' in again


@pytest.mark.parametrize('options, sizes, is_recipe', [
    ([], (1437, 360), True),
    (['--held-out'], (1149, 288), False),
    (['--cfg-options', 'train_cfg.max_epochs=1'], (1437, 360), False),
])
def test_command_line(options, sizes, is_recipe, tmp_path, monkeypatch):
    """All but the trainings."""
    seen = []

    def run_all(runs, data_dir, processes):
        seen.append((len(runs), processes))
        assert sizes == tuple(
            len(list(Path(data_dir).glob(f'{split}/*/*.png')))
            for split in ('train', 'test'))
        num_labels = round(sizes[0] / 100)  # a tenth, of ten classes
        for seed in range(2):
            lines = Path(f'{data_dir}/tenth_seed{seed}.txt').read_text()
            assert len(lines.splitlines()) == 10 * num_labels
        for cfg in runs.values():
            metrics = ('knn', 'linear') if 'val_evaluator' not in cfg else (
                'top1', )
            os.makedirs(cfg.work_dir)
            Path(cfg.work_dir, 'result.json').write_text(
                json.dumps(
                    dict(
                        fingerprint=fingerprint(cfg),
                        seconds=1.,
                        **{metric: 90.
                           for metric in metrics})))
            assert cfg.train_cfg.max_epochs == 1 or '--cfg-options' not in (
                options)

    monkeypatch.setattr(tool, 'run_all', run_all)
    monkeypatch.setattr(
        sys, 'argv',
        ['study.py', '--seeds', '2', '--processes', '4', *options])
    monkeypatch.chdir(tmp_path)
    tool.main()
    assert seen == [(58, 4)]
    # Only what the page says may stand where readers look for it.
    pages = list(tmp_path.glob('**/results.md'))
    assert [page.parent == tmp_path / 'docs' for page in pages] == [is_recipe]
    page = pages[0].read_text()
    assert ('This is not the recipe' in page) != is_recipe
    assert '--seeds 2' in page


@pytest.mark.parametrize('option', ['--seeds', '--processes'])
def test_illegal_numbers(option, monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', ['study.py', option, '0'])
    with pytest.raises(SystemExit):
        tool.main()
    assert f'{option} 0' in capsys.readouterr().err
