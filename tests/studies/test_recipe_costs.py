import runpy
import sys

import pytest
from mmengine.config import Config

from tests.toys.models import ROOT

SCRIPT = str(ROOT / 'studies' / 'recipe_costs.py')
STEP_TIME = str(ROOT / 'studies' / 'benchmarks' / 'step_time.py')


@pytest.fixture(scope='module')
def script():
    return runpy.run_path(SCRIPT)


def config(name: str) -> Config:
    return Config.fromfile(ROOT / 'configs' / name)


def blocks(number, tokens, width):
    """GFLOP of transformer blocks, forward."""
    return number * 2 * (12 * tokens * width**2 +
                         2 * tokens**2 * width) / 1e9


def patches(number, pixels, width):
    return 2 * number * 3 * pixels**2 * width / 1e9


def test_parts_by_hand(script):
    """S <- B at 224 px: 50 of 197 tokens are visible."""
    counts = script['count_gflop'](config('dmae/vit-s_dmae_in1k.py'))
    # The backward pass costs twice the forward pass, except that no gradient
    # of the images is needed.
    student = (3 * blocks(12, 50, 384) + 2 * patches(196, 16, 384) +
               3 * 2 * 50 * 384 * 768 / 1e9)
    decoder = 3 * blocks(8, 197, 512) + 3 * 2 * (
        50 * 384 * 512 + 197 * 512 * 768) / 1e9
    # The embedding is of all patches, what follows of the visible ones.
    teacher = blocks(9, 50, 768) + patches(196, 16, 768)
    assert counts['student'] == pytest.approx(student, rel=0.01)
    assert counts['decoder'] == pytest.approx(decoder, rel=0.01)
    assert counts['teacher'] == pytest.approx(teacher, rel=0.01)
    assert counts['total'] == pytest.approx(
        counts['student'] + counts['decoder'] + counts['teacher'])
    step_time = runpy.run_path(STEP_TIME)
    counted = step_time['count_flops'](
        str(ROOT / 'configs/dmae/vit-s_dmae_in1k.py'),
        step_time['VARIANTS']['DMAE'])
    assert counts['total'] == pytest.approx(sum(counted) / 1e9, rel=1e-4)


def test_without_decoder_and_with_two_teachers(script):
    """Relations of the last block; the second teacher counts as the first."""
    cfg = config('dmae/vit-t_dmae_in1k.py')
    one = dict(
        teacher=cfg.model.teacher,
        aligned_layers=[(-1, 8)],
        distill_loss=dict(type='QKVRelationLoss'))
    cfg.model.update(
        neck=None, head=None, teacher=None, aligned_layers=[],
        distill_neck=None, distill_loss=None, teachers=dict(a=one))
    single = script['count_gflop'](cfg)
    cfg.model.teachers = dict(a=one, b=one)
    double = script['count_gflop'](cfg)
    assert single['decoder'] == double['decoder'] == 0
    assert double['teacher'] == pytest.approx(2 * single['teacher'])


def test_teacher_of_196_pixels(script):
    counts = script['count_gflop'](
        config('dmae/vit-b_dmae-teacher-h_in1k.py'))
    assert counts['teacher'] == pytest.approx(
        blocks(24, 50, 1280) + patches(196, 14, 1280), rel=0.01)


@pytest.mark.parametrize('name, student, teacher', [
    ('benchmarks/vit-t_finetune_in1k.py',
     3 * blocks(12, 197, 192) + 2 * patches(196, 16, 192), 0),
    # Only the classifier is trained.
    ('benchmarks/vit-t_linear_in1k.py',
     blocks(12, 197, 192) + patches(196, 16, 192), 0),
    ('benchmarks/vit-s_finetune-logits_in1k.py',
     3 * blocks(12, 197, 384) + 2 * patches(196, 16, 384),
     blocks(12, 197, 768) + patches(196, 16, 768)),
    # The projector adds 3 * 2 * 197 * 384 * 768; 9 blocks of the teacher.
    ('baselines/vit-s_features_in1k.py',
     3 * blocks(12, 197, 384) + 2 * patches(196, 16, 384) + 0.349,
     blocks(9, 197, 768) + patches(196, 16, 768)),
])
def test_classifiers_by_hand(name, student, teacher, script):
    counts = script['count_gflop'](config(name))
    assert counts['student'] == pytest.approx(student, rel=0.01)
    assert counts['teacher'] == pytest.approx(teacher, rel=0.01)
    assert counts['decoder'] == 0


@pytest.mark.parametrize('name, images', [
    ('dmae/vit-s_dmae_in1k.py', 1_281_167 * 100),
    ('benchmarks/vit-s_linear_in1k.py', 1_281_167 * 90),
    ('benchmarks/vit-s_finetune-1pct_in1k.py', 13_000 * 100),
    ('benchmarks/vit-s_finetune-10pct_in1k.py', 128_000 * 100),
])
def test_gpu_hours(name, images, script):
    hours = script['gpu_hours'](config(name), gflop=36, tflops=50)
    assert hours == pytest.approx(images * 36e9 / 50e12 / 3600)


def test_hours_of_a_variation(script):
    """The schedule is that of its options."""
    row = script['read_page'](script['PAGE'].read_text())['vit-s_dmae-400e']
    hours = script['gpu_hours'](row.read(), gflop=36, tflops=50)
    assert hours == pytest.approx(1_281_167 * 400 * 36e9 / 50e12 / 3600)


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, 'argv', [SCRIPT, *arguments])
    runpy.run_path(SCRIPT, run_name='__main__')


def test_command_line(monkeypatch, capsys):
    """A row of the page and a config."""
    path = str(ROOT / 'configs/dmae/vit-b_dmae-mask98_in1k.py')
    run(monkeypatch, 'vit-t_dmae-mask98', path, '--tflops', '50')
    header, _, *rows = (
        [cell.strip() for cell in line.strip('|').split('|')]
        for line in capsys.readouterr().out.splitlines())
    rows = [dict(zip(header, row)) for row in rows]
    assert [row['recipe'] for row in rows
            ] == ['vit-t_dmae-mask98', 'vit-b_dmae-mask98_in1k']
    for row in rows:
        assert row['epochs'] == '100'
        hours = float(row['GFLOP/image']) * 1_281_167 * 100 / 50_000 / 3600
        assert float(row['GPU-hours']) == pytest.approx(hours, abs=0.1)


@pytest.mark.parametrize('arguments, message', [
    (['--tflops', '0', SCRIPT], '--tflops 0.0 must be above 0'),
    (['no_such_config.py'], "There is no config 'no_such_config.py'"),
    ([], 'give configs or names of recipes, or --page'),
    (['vit-t_mae', '--page'], 'give configs or names of recipes, or --page'),
])
def test_refused_arguments(arguments, message, monkeypatch, capsys):
    with pytest.raises(SystemExit, match='2'):
        run(monkeypatch, *arguments)
    assert message in capsys.readouterr().err


def test_writing_the_page(tmp_path, monkeypatch):
    """A page of two rows, whose costs are not yet known, and two of these."""
    page = tmp_path / 'docs' / 'recipes.md'
    page.parent.mkdir()
    page.write_text('# Recipes\n\n| config | GFLOP/image | teacher | h |\n'
                    '| --- | ---: | ---: | ---: |\n'
                    '| `vit-t_linear` | ? | ? | ? |\n'
                    '| `vit-t_mae` | ? | ? | ? |\n')
    students = page.with_name('students.md')
    students.write_text('| config | student | GFLOP/image |\n'
                        '| --- | --- | ---: |\n'
                        '| `vit-t_mae` | ViT-T | ? |\n\n'
                        '| option | |\n| --- | --- |\n| `mask` | 0 |\n')
    objectives = page.with_name('objectives.md')
    objectives.write_text('| recipe | what | GFLOP/image | teacher |\n'
                          '| --- | --- | ---: | ---: |\n'
                          '| `vit-t_mae` | MAE | ? | ? |\n')
    monkeypatch.setattr('recipes_page.PAGE', page)
    monkeypatch.setattr('recipes_page.STUDENTS_PAGE', students)
    monkeypatch.setattr('recipes_page.OBJECTIVES_PAGE', objectives)
    run(monkeypatch, '--page')
    assert objectives.read_text().endswith('| `vit-t_mae` | MAE | 33.9 |  |\n')
    assert page.read_text().splitlines()[4:] == [
        '| `vit-t_linear` | 2.5 |  | 0.80 |',
        '| `vit-t_mae` | 33.9 |  | 12.1 |'
    ]
    assert students.read_text().splitlines()[2:] == [
        '| `vit-t_mae` | ViT-T | 33.9 |', '', '| option | |', '| --- | --- |',
        '| `mask` | 0 |'
    ]
