"""What a teacher's folder says stands in the completed config."""
import json
import shutil

import pytest
from mmengine.config import Config
from mmpretrain.registry import MODELS

from dmae_mm.launch import complete_config
from dmae_mm.weights.formats import described_folder
from tests.toys.hugging_face import GOLDEN
from tests.toys.models import TOY_MODEL

VIT = described_folder(str(GOLDEN / 'vit'))


def config(checkpoint, **options):
    """A student with the grid of 4 x 4 patches."""
    teacher = dict(
        type='TimmTeacher', checkpoint=str(checkpoint), **options)
    return Config(
        dict(
            model=dict(TOY_MODEL, teacher=teacher, aligned_layers=[(0, 0)]),
            train_dataloader=dict(batch_size=2),
            train_cfg=dict(max_epochs=1),
            optim_wrapper=dict(optimizer=dict(type='AdamW'))))


def test_all_is_written_out(tmp_path):
    folder = tmp_path / 'model'
    shutil.copytree(GOLDEN / 'vit', folder)
    cfg = config(folder)
    assert complete_config(cfg, {}) == []
    assert cfg.model.teacher == dict(
        type='TimmTeacher', checkpoint=str(folder), **VIT)
    # As a run keeps it: the student is built where the folder is not.
    path = tmp_path / 'config.py'
    cfg.dump(path)
    shutil.rmtree(folder)
    model = MODELS.build(Config.fromfile(path).model)
    with pytest.raises(FileNotFoundError, match='model.teacher.checkpoint'):
        model.init_weights()
    with pytest.raises(FileNotFoundError, match="teacher: checkpoint='.* is "
                       'not there. Without model_name, .* config.json'):
        MODELS.build(config(folder).model)


def test_given_options_are_kept():
    cfg = config(
        GOLDEN / 'vit', mean=[1.] * 3, std=[2.] * 3,
        model_kwargs=dict(img_size=32))
    assert complete_config(cfg, {}) == []
    teacher = cfg.model.teacher
    assert teacher.mean == [1.] * 3 and teacher.std == [2.] * 3
    assert teacher.model_kwargs == dict(VIT['model_kwargs'], img_size=32)
    cfg = config(GOLDEN / 'vit', model_name='vit_tiny_patch16_224')
    before = cfg.to_dict()
    assert complete_config(cfg, {}) == []
    assert cfg.model.teacher == before['model']['teacher']


def test_several_teachers():
    cfg = config(GOLDEN / 'vit')
    cfg.model.teachers = dict(
        one=dict(teacher=cfg.model.pop('teacher')),
        two=dict(teacher=dict(type='mmpretrain.TimmTeacher',
                              checkpoint=str(GOLDEN / 'clip'))))
    assert complete_config(cfg, {}) == []
    assert [each.teacher.model_name for each in cfg.model.teachers.values()
            ] == [VIT['model_name'], 'vit_base_patch16_clip_quickgelu_224']


def test_what_a_folder_does_not_say(tmp_path):
    problem, = complete_config(config(tmp_path / 'gone'), {})
    assert problem.startswith("model.teacher: checkpoint='") and (
        'is not there' in problem)
    (tmp_path / 'config.json').write_text(json.dumps(dict(model_type='bert')))
    problem, = complete_config(config(tmp_path), {})
    assert "it is a Hugging Face model of type 'bert'" in problem
    (tmp_path / 'config.json').write_text(json.dumps(dict(model_type='vit')))
    problem, = complete_config(config(tmp_path), {})
    assert 'no preprocessor_config.json' in problem
