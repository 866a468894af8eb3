"""The study of students of four kinds: its jobs, its table, its page."""
import sys

import pytest
import torch
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS, TRANSFORMS
from mmpretrain.structures import DataSample

from studies import students_study
from studies.students_study import STUDENTS, UNTRAINED
from tests.toys.recipes import differences


@pytest.fixture(scope='module')
def runs():
    return students_study.prepare(2, 'digits', {})


def test_one_teacher_for_all(runs):
    teacher, jobs = runs
    assert teacher.work_dir.endswith('students_study/teacher')
    assert len(jobs) == 2 * 2 * 4
    marks = set()
    for (seed, name), cfg in jobs.items():
        assert cfg.randomness.seed == seed
        if cfg.model.teacher is not None:
            assert cfg.model.teacher.checkpoint == (
                f'{teacher.work_dir}/final.pth')
            marks.add(cfg.taught_by)
        else:
            assert name.endswith('-control')
    assert len(marks) == 1


@pytest.mark.parametrize('student', STUDENTS)
def test_a_pair_differs_in_the_teacher_only(student, runs):
    _, jobs = runs
    ours, control = jobs[1, student], jobs[1, f'{student}-control']
    found = differences(ours.to_dict(), control.to_dict())
    if STUDENTS[student][1] is UNTRAINED:
        assert control.optim_wrapper.optimizer.lr == 0
        assert control.train_cfg.max_epochs == 1
        assert not [path for path in found if path.startswith('model')]
    else:
        assert {*found} == {
            'model.aligned_layers', 'model.teacher', 'taught_by', 'work_dir'
        }


def samples_of(cfg):
    """With a mask where the pipeline draws one."""
    masks = [
        TRANSFORMS.build(step)
        for step in cfg.train_dataloader.dataset.pipeline
        if step['type'] == 'SimMIMMaskGenerator'
    ]
    return [
        DataSample().set_mask(masks[0]({})['mask']) if masks else DataSample()
        for _ in range(4)
    ]


def loss_of(cfg):
    """Of a batch of four images, and the parameters of the backbone."""
    init_default_scope('mmpretrain')
    model = cfg.model.to_dict()
    if model['teacher']:
        model['teacher'].update(checkpoint=None, allow_random=True)
    torch.manual_seed(0)
    model = MODELS.build(model)
    crop = next(step for step in cfg.train_dataloader.dataset.pipeline
                if step['type'] == 'RandomResizedCrop')
    images = torch.randn(4, 3, crop['scale'], crop['scale'])
    losses = model.loss(images, samples_of(cfg))
    number = sum(p.numel() for p in model.backbone.parameters())
    return {name: loss.item() for name, loss in losses.items()}, number


@pytest.mark.parametrize('student', STUDENTS)
def test_students_are_small_and_learn_from_the_teacher(student, runs):
    _, jobs = runs
    losses, number = loss_of(jobs[0, student])
    assert 1e5 < number < 1e6
    aligned = [name for name in losses if name.startswith('loss_align_')]
    assert len(aligned) == 1 and losses[aligned[0]] > 0
    if STUDENTS[student][1] is not UNTRAINED:
        control, same = loss_of(jobs[0, f'{student}-control'])
        assert list(control) == ['loss_recon'] and same == number
        assert {*losses} == {'loss_recon', *aligned}
    else:
        assert [*losses] == aligned


def results(seeds: int) -> dict:
    """As if each job were done: with a teacher 10 + seed points better."""
    return {
        (seed, job.name): dict(
            seconds=60,
            knn=60. + (0 if 'control' in job.name else 10 + seed),
            linear=90.)
        for seed in range(seeds) for job in students_study.jobs()
    }


@pytest.mark.parametrize('seeds', [1, 3])
def test_page_of_fake_results(seeds, tmp_path):
    file = tmp_path / 'pages' / 'study.md'
    students_study.write_page(
        str(file),
        dict(knn=98.5, linear=99.25, seconds=60),
        results(seeds),
        dict.fromkeys(STUDENTS, 250_000),
        command='python studies/students_study.py',
        processes=2,
        is_recipe=seeds == 3)
    page = file.read_text()
    assert ('**Options of the command changed' in page) == (seeds == 1)
    assert 'kNN 98.5, linear probe 99.25' in page
    assert f'{8 * seeds + 1} trainings' in ' '.join(page.split())
    rows = [line.split(' | ') for line in page.splitlines()
            if line.startswith('| ') and ' M | ' in line or '| differ' in line]
    assert len(rows) == 12
    for control, taught, difference in zip(*[iter(rows)] * 3):
        assert control[1] == '0.25 M' and control[3].startswith('60.00')
        if seeds == 3:  # 70, 71, 72: half of the interval is 4.303 / sqrt(3)
            assert taught[3] == '71.00 ± 2.48'
            assert difference[3] == '+11.00 ± 2.48'
        else:
            assert (taught[3], difference[3]) == ('70.00', '+10.00')
        assert difference[4].startswith('+0.00')


@pytest.mark.slow
def test_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'argv', [
        'students_study.py', '--seeds', '1', '--processes', '2',
        '--cfg-options', 'train_cfg.max_epochs=1',
        'train_dataloader.dataset.indices=64'
    ])
    students_study.main()
    page = (tmp_path / students_study.OUT_DIR / 'results.md').read_text()
    assert page.count('| difference |') == 4
    assert 'nan' not in page
    capsys.readouterr()
    students_study.main()
    assert '8 trainings, 8 of them finished before' in capsys.readouterr().out
    assert (tmp_path / students_study.OUT_DIR / 'results.md').read_text(
    ) == page
