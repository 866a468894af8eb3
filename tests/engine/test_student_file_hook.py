"""What a pre-training leaves for everybody else."""
import copy
import json
import logging
from types import SimpleNamespace

import pytest
import safetensors
import timm
import torch
from mmengine.config import Config
from mmpretrain.registry import MODELS
from safetensors.torch import load_file

from dmae_mm.engine.hooks import StudentFileHook, student_file_hook
from dmae_mm.weights import read_tensor_file
from tests.toys.models import DISTILLER, NARROW_RESNET, ROOT
from tests.toys.runs import config, run



@pytest.fixture
def cfg(photos, tmp_path):
    cfg = config(photos, tmp_path / 'work', epochs=1)
    cfg.custom_hooks.append(dict(type='StudentFileHook'))
    cfg.log_level = 'INFO'
    return cfg


def log_of(folder):
    path, = folder.glob('*/*.log')
    return path.read_text()


def test_the_log_says_how_timm_loads_it(cfg, tmp_path):
    runner, _ = run(cfg)
    path = tmp_path / 'work' / 'student.safetensors'
    log = log_of(tmp_path / 'work')
    assert f'The student is in {path}, with the names of timm.' in log
    usage, = (line for line in log.splitlines()
              if line.startswith('timm.create_model('))
    model = eval(usage).eval()
    backbone = runner.model.backbone.eval() or runner.model.backbone
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        wanted, = backbone(images, mask=None)
        torch.testing.assert_close(
            model.forward_features(images), wanted, rtol=1e-4, atol=1e-4)
    said = timm.data.resolve_model_data_config(model)
    assert said['mean'] == said['std'] == (.5, .5, .5)
    assert said['input_size'] == (3, 32, 32)
    with safetensors.safe_open(path, 'pt') as file:
        meta = file.metadata()
    assert meta['source'] == str(tmp_path / 'work' / 'epoch_1.pth')
    assert json.loads(meta['trained_as'])['mean'] == [127.5] * 3
    assert not any('head' in name for name in load_file(path))


def test_averaged_weights(cfg, tmp_path):
    cfg.custom_hooks.append(dict(type='EMAHook', momentum=0.1))
    run(cfg)
    checkpoint = read_tensor_file(str(tmp_path / 'work' / 'epoch_1.pth'))
    assert checkpoint.is_averaged
    student = load_file(tmp_path / 'work' / 'student.safetensors')
    assert torch.equal(student['patch_embed.proj.weight'],
                       checkpoint.tensors['backbone.patch_embed.projection.'
                                          'weight'])


def test_what_timm_cannot_build_keeps_its_names(cfg, tmp_path):
    cfg.model = copy.deepcopy(DISTILLER)
    cfg.train_dataloader.drop_last = True
    runner, _ = run(cfg)
    path = tmp_path / 'work' / 'student.safetensors'
    backbone = MODELS.build(dict(NARROW_RESNET))
    backbone.load_state_dict(load_file(path))
    own = runner.model.backbone.state_dict()
    for name, tensor in backbone.state_dict().items():
        assert torch.equal(tensor, own[name]), name
    log = log_of(tmp_path / 'work')
    assert 'with the names of ResNet. Note: it does not have' in log
    lines = log.splitlines()
    index, = (i for i, line in enumerate(lines)
              if line.startswith('backbone = mmpretrain.registry'))
    names = dict(
        mmpretrain=SimpleNamespace(registry=SimpleNamespace(MODELS=MODELS)),
        mmengine=SimpleNamespace(Config=Config), safetensors=safetensors)
    exec('\n'.join(lines[index:index + 2]), names)


def test_a_failure_is_a_warning_with_the_command(cfg, tmp_path, monkeypatch):
    def fail(*args):
        raise RuntimeError('of any kind')

    monkeypatch.setattr(student_file_hook, 'export_student', fail)
    runner, _ = run(cfg)
    work = tmp_path / 'work'
    assert runner.epoch == 1 and (work / 'epoch_1.pth').is_file()
    log = log_of(work)
    assert 'WARNING' in log and 'RuntimeError: of any kind' in log
    dumped, = work.glob('*.py')
    assert (f'tools/model_converters/export.py {dumped} {work}/epoch_1.pth '
            f'{work}/student.safetensors --to timm --num-classes 0 --force'
            ) in log


def test_classifiers_are_left_alone(tmp_path, caplog):
    model = torch.nn.Linear(1, 1)
    StudentFileHook().after_train(SimpleNamespace(
        model=model, work_dir=str(tmp_path), logger=logging.getLogger()))
    assert not caplog.records and not list(tmp_path.iterdir())


def test_every_pre_training_has_it():
    cfg = Config.fromfile(ROOT / 'configs' / '_base_' / 'default_runtime.py')
    assert dict(type='StudentFileHook') in cfg.custom_hooks
