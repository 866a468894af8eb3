"""tools/analysis/layer_similarity.py: what it writes, prints and refuses."""
import json
import runpy
import shutil
from pathlib import Path

import cv2
import pytest
import torch
from mmengine.config import Config
from mmpretrain.registry import MODELS

from dmae_mm.evaluation.images import EvaluationPipeline
from dmae_mm.evaluation.layer_similarity import (build_whole_teacher,
                                                 layer_similarity)
from dmae_mm.models.student_input import StudentInput
from tests.toys.models import ROOT, two_teachers
from tests.toys.odd_files import broken_files, write
from tests.toys.runs import write_toy_run

main = runpy.run_path(
    str(ROOT / 'tools' / 'analysis' / 'layer_similarity.py'))['main']


@pytest.fixture(scope='module')
def built(tmp_path_factory):
    """A student, and a folder with config, backbone alone and images."""
    folder = tmp_path_factory.mktemp('similarity')
    cfg = Config.fromfile(write_toy_run(folder))
    torch.manual_seed(3)
    model = MODELS.build(cfg.model)
    model.init_weights()
    torch.save(model.backbone.state_dict(), folder / 'backbone.pth')
    return model, folder


@pytest.fixture
def model(built, tmp_path, monkeypatch):
    """The student; the current folder is a copy of the folder."""
    shutil.copytree(built[1], tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return built[0]


def compare(*options: str) -> dict:
    main(['toy_run.py', '--images', 'images', '--num-workers', '0',
          *options])
    return json.loads(Path('layer_similarity.json').read_text())


def test_matrix_pairs_and_picture(model, capsys):
    """Of a trained student, in one batch: the order changes nothing then."""
    found = compare('--checkpoint', 'backbone.pth', '--batch-size', '8',
                    '--cfg-options', 'model.aligned_layers="[(0,5),(-1,0)]"')
    cka = torch.tensor(found['cka'], dtype=torch.float64)
    assert cka.shape == (4, 6)

    order = torch.randperm(8, generator=torch.Generator().manual_seed(0))
    batch = EvaluationPipeline(32).read([f'images/{i}.png' for i in order])
    teacher = build_whole_teacher(
        Config.fromfile('toy_run.py').model.teacher.to_dict(),
        StudentInput.of_vit(model.backbone, model.data_preprocessor))
    torch.manual_seed(0)
    torch.testing.assert_close(
        cka, layer_similarity(model, teacher, [batch]), rtol=1e-9, atol=0)

    assert (found['num_images'], found['mask_ratio'],
            found['checkpoint']) == (8, 0.75, 'backbone.pth')
    assert found['rule'] == dict(student=2, teacher=3, cka=cka[2, 3].item())
    assert [(pair['student'], pair['teacher'])
            for pair in found['config_pairs']] == [(0, 5), (3, 0)]
    best = cka.argmax(dim=1).tolist()
    assert [(pair['student'], pair['teacher'])
            for pair in found['most_similar']] == [(0, best[0]), (3, best[3])]
    assert len(found['most_similar_of_all_student_blocks']) == 4
    printed = capsys.readouterr().out
    assert f'3/4 rule:     aligned_layers=[(2, 3)], CKA {cka[2, 3]:.3f}' in (
        printed)
    assert (f'most similar: aligned_layers=[(0, {best[0]}), (3, {best[3]})]'
            in printed)
    assert cv2.imread('layer_similarity.png').ndim == 3


@pytest.fixture
def two(model):
    """The same config with two teachers; the first is as before."""
    cfg = Config.fromfile('toy_run.py')
    preprocessor = cfg.model.data_preprocessor
    cfg.model = two_teachers(data_preprocessor=preprocessor)
    Path('toy_run.py').unlink()
    cfg.dump('toy_run.py')


def test_one_of_several_teachers(model, two, capsys):
    found = compare('--teacher', 'dino')
    assert found['name'] == 'dino' and len(found['cka'][0]) == 4
    assert [(pair['student'], pair['teacher'])
            for pair in found['config_pairs']] == [(3, 3)]
    found = compare('--teacher', 'mae', '--cfg-options',
                    'model.teachers.mae.aligned_layers="[(0,5)]"')
    assert len(found['cka'][0]) == 6
    assert found['config_pairs'][0]['teacher'] == 5
    capsys.readouterr()
    for options, message in (
        ([], 'toy_run.py has the teachers dino, mae: choose one with '
         '--teacher NAME'),
        (['--teacher', 'clip'], '--teacher clip: The config toy_run.py has '
         'the teachers dino, mae'),
        (['--teacher', 'dino', '--cfg-options',
          'model.teachers.dino.teacher.backbone.type=Nothing'],
         'model.teachers.dino.teacher cannot be built'),
    ):
        with pytest.raises(SystemExit):
            compare(*options)
        assert message in capsys.readouterr().err


def test_untrained_and_repeatable(model):
    """Two batches of 4; the same each time."""
    first = compare('--batch-size', '4')
    assert first['checkpoint'] is None and first['sha256'] is None
    assert compare('--batch-size', '5')['cka'] == first['cka']  # 4 and 4
    other = compare('--num-images', '5', '--seed', '1')
    assert other['num_images'] == 5 and other['cka'] != first['cka']


def test_broken_images_are_skipped_and_named(model, capfd):
    """Once each, also by workers; the others give what they gave alone."""
    alone = compare()
    write(Path('images'), broken_files())
    capfd.readouterr()
    found = compare('--num-workers', '1')
    assert found['num_images'] == 8
    shown, errors = capfd.readouterr()
    said = [line for line in shown.splitlines() if 'skipped' in line]
    assert len(said) == len(broken_files()) and 'Traceback' not in errors
    for name in broken_files():
        line, = (line for line in said if f'/{name}: ' in line)
        assert f' of {len(said)} files: ' in line
    assert 'images/empty.jpg: empty file' in shown
    assert len(found['cka']) == len(alone['cka'])
    for index in range(5):
        Path(f'images/{index}.png').write_bytes(b'')
    with pytest.raises(SystemExit):
        compare()
    message = capfd.readouterr().err
    assert "'images' has 3 readable images" in message
    assert '(empty file)' in message and ' and 6 more.' in message


@pytest.mark.parametrize('options, message', [
    (['--batch-size', '3'], '--batch-size: 3 is not at least 4'),
    (['--num-images', '2'], '--num-images: 2 is not at least 4'),
    (['--images', 'few'], "'few' has 2 readable images; CKA needs at least"),
    (['--images', 'gone'], "There is no folder 'gone'"),
    (['--out', 'out.jpg'], 'is not the name of a .png file'),
    (['--checkpoint', 'gone.pth'], 'gone.pth'),
    (['--checkpoint', 'backbone.pth', '--cfg-options',
      'model.backbone.arch.num_layers=3'], 'layers.3.'),
    (['--cfg-options', 'model.teacher=None'], 'has no model.teacher'),
    (['--teacher', 'mae'], 'has a single teacher, without a name: leave out'),
    (['--cfg-options', 'model.aligned_layers="[(0,6)]"'],
     'teacher has no block 6'),
])
def test_refusals(options, message, model, capsys):
    Path('few').mkdir()
    for index in range(2):
        Path(f'images/{index}.png').rename(f'few/{index}.png')
    with pytest.raises(SystemExit) as stop:
        compare(*options)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert not Path('layer_similarity.json').exists()
