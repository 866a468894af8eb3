"""Programs: ONNX, and those of torch.export."""
import json
import sys

import numpy as np
import pytest
import torch

from dmae_mm.host import quietly
from dmae_mm.weights import export_checkpoint
from dmae_mm.weights.export import onnx_format, program_format
from dmae_mm.weights.export.image_features import ImageFeatures
from tests.toys.export_models import (BACKBONES, MEAN, STD, images_for,
                                      refused, tokens_of, write)
from tests.toys.models import STUDENT
from tests.toys.timm_students import (MODELS_OF_TIMM, family_cfg, write_maps,
                                      write_vit)

# Small: converting takes its time.
ONE_BLOCK = dict(BACKBONES['MAEViT'], arch=dict(STUDENT, num_layers=1))
ENDING = {'onnx': 'onnx', 'torch-export': 'pt2'}


def run(path, images):
    """What a user's program gets of images, by name; and what it is told."""
    if path.endswith('.onnx'):
        onnxruntime = pytest.importorskip('onnxruntime')
        session = onnxruntime.InferenceSession(
            path, providers=['CPUExecutionProvider'])
        assert [given.name for given in session.get_inputs()] == ['images']
        found = session.run(None, dict(images=images.numpy()))
        return {
            output.name: torch.from_numpy(value)
            for output, value in zip(session.get_outputs(), found)
        }, session.get_modelmeta().custom_metadata_map
    extra = {'model.json': ''}
    with quietly():
        program = torch.export.load(path, extra_files=extra)
    return program.module()(images), json.loads(extra['model.json'])


def program_of(tmp_path, to, written):
    config, checkpoint, model = written
    path = str(tmp_path / f'student.{ENDING[to]}')
    return path, export_checkpoint(config, checkpoint, path, to), model


def assert_same(found, wanted):
    """To 1e-4 of the largest value: a ResNet has large and small ones."""
    assert found.shape == wanted.shape
    assert (found - wanted).abs().max() <= 1e-4 * wanted.abs().max()


@pytest.mark.parametrize('to', ENDING)
def test_features_of_any_number_of_images(tmp_path, to):
    path, exported, backbone = program_of(
        tmp_path, to, write(tmp_path, ONE_BLOCK))
    assert exported.differences.keys() == {
        'features', 'pooled', 'cls_token', 'patches'}
    for number in (1, 2, 5):
        images = torch.randn(number, 3, 32, 32)
        outputs, said = run(path, images)
        tokens = tokens_of(backbone, images)
        patches = tokens[:, 1:].transpose(1, 2).reshape(number, 24, 4, 4)
        for name, wanted in dict(
                features=patches, pooled=tokens[:, 1:].mean(1),
                cls_token=tokens[:, 0]).items():
            assert_same(outputs[name], wanted)
    assert json.loads(said['mean']) == MEAN
    assert json.loads(said['std']) == STD
    assert json.loads(said['input_size']) == [3, 32, 32]
    assert said['channels'] == 'RGB' and said['interpolation'] == 'bicubic'
    assert said['source'].endswith('source.pth') and len(said['sha256']) == 64
    assert json.loads(said['trained_as'])['img_size'] == [32, 32]
    if to == 'onnx':
        onnx = pytest.importorskip('onnx')
        opset, = onnx.load(path).opset_import
        assert opset.version == 18
        onnx.checker.check_model(path)


@pytest.mark.slow
@pytest.mark.parametrize('to', ENDING)
@pytest.mark.parametrize('kind', BACKBONES)
def test_backbones(tmp_path, kind, to):
    path, exported, backbone = program_of(
        tmp_path, to, write(tmp_path, BACKBONES[kind]))
    assert max(exported.differences.values()) <= 1e-5
    images = images_for(backbone)
    tokens = tokens_of(backbone, images)
    extra = int(backbone.cls_token is not None)
    pooled = tokens[:, extra:].mean(1)
    if kind == 'average pooling':
        pooled = backbone.ln2(pooled)
    outputs, _ = run(path, images)
    assert_same(outputs['pooled'], pooled)
    assert ('cls_token' in outputs) == bool(extra)


@pytest.mark.slow
@pytest.mark.parametrize('to', ENDING)
@pytest.mark.parametrize('family', [
    'DINOv2 with registers', 'average pooling, no CLS', 'DINOv3', 'SigLIP',
    'DeiT, distilled'])
def test_students_of_timm(tmp_path, family, to):
    path, _, model = program_of(
        tmp_path, to, write_vit(tmp_path, family_cfg(family)))
    backbone = model.backbone
    images = torch.randn(3, 3, *backbone.img_size)
    with torch.no_grad():
        tokens = backbone.tokens(images)  # without registers
    outputs, _ = run(path, images)
    extra = backbone.num_extra_tokens
    patches = outputs['features'].flatten(2).transpose(1, 2)
    assert_same(patches, tokens[:, extra:])
    assert ('cls_token' in outputs) == bool(extra)


@pytest.mark.slow
@pytest.mark.parametrize('to', ENDING)
@pytest.mark.parametrize('name', MODELS_OF_TIMM)
def test_students_by_their_maps(tmp_path, name, to):
    path, _, model = program_of(
        tmp_path, to, write_maps(tmp_path, name, **MODELS_OF_TIMM[name]))
    side = MODELS_OF_TIMM[name].get('img_size', 224)
    images = torch.randn(2, 3, side, side)
    with torch.no_grad():
        last = model.extract_feat(images)[-1]
    outputs, _ = run(path, images)
    assert_same(outputs['features'], last)
    assert_same(outputs['pooled'], last.mean((2, 3)))


@pytest.mark.slow
def test_another_size(tmp_path):
    config, checkpoint, _ = write(tmp_path, BACKBONES['VisionTransformer'])
    path = str(tmp_path / 'student.pt2')
    export_checkpoint(config, checkpoint, path, 'torch-export',
                      img_size=(16, 48))
    outputs, said = run(path, torch.randn(1, 3, 16, 48))
    assert outputs['features'].shape == (1, 24, 2, 6)
    assert json.loads(said['input_size']) == [3, 16, 48]


def test_another_program_is_found_out(tmp_path, monkeypatch):
    class Wrong(ImageFeatures):

        def forward(self, images):
            outputs = super().forward(images)
            outputs['features'] = outputs['features'].transpose(2, 3)
            return outputs

    monkeypatch.setattr(program_format, 'ImageFeatures', Wrong)
    config, checkpoint, _ = write(tmp_path, ONE_BLOCK)
    error = refused(config, checkpoint, tmp_path / 'a.pt2', 'torch-export')
    assert 'computes something else' in error and 'patches by' in error
    assert not (tmp_path / 'a.pt2').exists()


@pytest.mark.parametrize('to, dst, message', [
    ('onnx', 'a.pth', 'a.pth must end in .onnx to be read by onnx'),
    ('torch-export', 'a.onnx', 'must end in .pt2 to be read by torch-export'),
    ('torch-export', 'there.pt2', 'exists already'),
])
def test_destinations(tmp_path, to, dst, message):
    config, checkpoint, _ = write(tmp_path, BACKBONES['MAEViT'])
    (tmp_path / 'there.pt2').write_text('precious')
    assert message in refused(config, checkpoint, tmp_path / dst, to)
    assert (tmp_path / 'there.pt2').read_text() == 'precious'


def test_a_missing_package_is_named_before_anything_is_read(
        tmp_path, monkeypatch):
    for name in ('onnx', 'onnxruntime'):
        monkeypatch.setitem(sys.modules, name, None)
    error = refused('vit_tiny_patch16_224', 'gone.pth', tmp_path / 'a.onnx',
                    'onnx')
    assert error == (
        "to='onnx' needs onnx and onnxruntime: pip install \"dmae_mm[onnx]\"")


def test_what_one_file_cannot_hold(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_format, 'MOST_BYTES', 1000)
    config, checkpoint, _ = write(tmp_path, ONE_BLOCK)
    error = refused(config, checkpoint, tmp_path / 'a.onnx', 'onnx')
    assert 'one ONNX file holds 1,000' in error
    assert error.endswith('--to torch-export can.')


@pytest.mark.slow
def test_images_of_unknown_normalisation(tmp_path):
    config, checkpoint, _ = write(tmp_path, BACKBONES['MAEViT'])
    path = str(tmp_path / 'a.pt2')
    exported = export_checkpoint(
        config, checkpoint, path, 'torch-export',
        cfg_options={'model.data_preprocessor': None})
    _, said = run(path, torch.from_numpy(np.zeros((1, 3, 32, 32), np.float32)))
    assert said['mean'] == said['std'] == 'null'
    assert any('how images are normalised' in note for note in exported.notes)
