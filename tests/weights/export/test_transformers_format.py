"""A folder that AutoModel and AutoImageProcessor load."""
import json
import subprocess
import sys
from functools import partial

import cv2
import numpy as np
import pytest
import timm
import torch
import torch.nn as nn
from PIL import Image

from dmae_mm.datasets import FastRandomResizedCrop
from dmae_mm.weights import export_checkpoint, read_tensor_file
from dmae_mm.weights.export import transformers_vit
from dmae_mm.weights.formats.described_folder import described_folder
from dmae_mm.weights.formats.translate import translate
from tests.toys import real_transformers
from tests.toys.export_models import (BACKBONES, MEAN, STD, refused, tokens_of,
                                      write)
from tests.toys.hugging_face import GOLDEN
from tests.toys.models import ROOT
from tests.toys.timm_families import FAMILIES
from tests.toys.timm_students import (MODELS_OF_TIMM, family_cfg, write_maps,
                                      write_vit)

# By which of their models, and 'timm' where none of them fits.
KINDS = {
    'MAEViT': 'vit',
    'VisionTransformer': 'vit',
    'layer scale': 'dinov2',
    'pre-norm': 'timm',
    'no CLS': 'timm',
    'no final norm': 'timm',
    'average pooling': 'timm',
    'no bias, gray, oblong': 'vit',
    'oblong patches': 'vit',
    'odd MLP': 'vit',
    'DeiT3': 'dinov2',
    'DeiT3 without layer scale': 'vit'
}
OWN = [name for name, kind in KINDS.items() if kind != 'timm']


def folder_of(tmp_path, kind, **options):
    config, checkpoint, backbone = write(tmp_path, BACKBONES[kind])
    exported = export_checkpoint(config, checkpoint, str(tmp_path / 'student'),
                                 'transformers', **options)
    return tmp_path / 'student', exported, backbone


def said(folder, name='config.json'):
    return json.loads((folder / name).read_text())


@pytest.mark.parametrize('kind', BACKBONES)
def test_the_right_kind_with_the_same_features(tmp_path, kind):
    folder, exported, backbone = folder_of(tmp_path, kind)
    config = said(folder)
    assert config.get('model_type', 'timm') == KINDS[kind]
    assert exported.differences['tokens'] <= 1e-6
    assert sorted(path.name for path in folder.iterdir()) == [
        'config.json', 'model.safetensors', 'preprocessor_config.json']
    assert exported.num_bytes == sum(
        path.stat().st_size for path in folder.iterdir())
    meta = read_tensor_file(str(folder)).meta
    assert meta['format'] == 'pt' and meta['source'].endswith('source.pth')
    if exported.loaded_by.startswith('transformers'):
        return
    assert 'transformers itself was not tried' in exported.notes[-1]


def test_numbers_of_an_image_processor(tmp_path):
    folder, _, _ = folder_of(tmp_path, 'no bias, gray, oblong')
    assert said(folder, 'preprocessor_config.json') == dict(
        image_processor_type='ViTImageProcessor',
        do_resize=True,
        size=dict(height=32, width=16),
        resample=3,
        do_center_crop=False,
        do_rescale=True,
        do_normalize=True,
        rescale_factor=1 / 255,
        image_mean=[MEAN[0] / 255],
        image_std=[STD[0] / 255])


@pytest.mark.parametrize('pipeline, number, name', [
    ('FastRandomResizedCrop', 3, 'bicubic'),
    ('RandomResizedCrop', 2, 'bilinear'),  # mmpretrain's default
])
def test_images_are_resized_as_in_training(tmp_path, pipeline, number, name):
    config, checkpoint, _ = write(tmp_path, BACKBONES['no CLS'])
    with open(config, 'a') as file:
        file.write('\ntrain_dataloader = dict(dataset=dict(pipeline=['
                   f'dict(type={pipeline!r}, scale=32)]))')
    folder = tmp_path / 'student'
    export_checkpoint(config, checkpoint, str(folder), 'transformers')
    assert said(folder, 'preprocessor_config.json')['resample'] == number
    images = said(folder)['pretrained_cfg']
    assert images['interpolation'] == name
    assert (images['crop_pct'], images['crop_mode']) == (1, 'squash')


def test_unknown_images_stay_as_they_are(tmp_path):
    config, checkpoint, _ = write(tmp_path, BACKBONES['VisionTransformer'])
    exported = export_checkpoint(
        config, checkpoint, str(tmp_path / 'student'), 'transformers',
        cfg_options={'model.data_preprocessor': None})
    images = said(tmp_path / 'student', 'preprocessor_config.json')
    assert not images['do_rescale'] and not images['do_normalize']
    assert any('how images are normalised' in note for note in exported.notes)


@pytest.mark.parametrize('name, eps', [('vit', 1e-12), ('dinov2', 1e-6)])
def test_the_folder_that_transformers_wrote(tmp_path, name, eps):
    """There and back: names and numbers are those of transformers 5.24."""
    golden = read_tensor_file(str(GOLDEN / name))
    found = translate(golden).format
    options = dict(found.model_kwargs,
                   norm_layer=partial(nn.LayerNorm, eps=found.norm_eps))
    assert options.pop('act_layer') == 'gelu'  # as it is without
    source = str(tmp_path / 'timm.pth')
    torch.save(found.tensors, source)
    folder = tmp_path / 'student'
    export_checkpoint(found.model_name, source, str(folder), 'transformers',
                      timm_kwargs=options)
    ours = read_tensor_file(str(folder)).tensors
    theirs = {name: tensor for name, tensor in golden.tensors.items()
              if 'pooler' not in name}
    own = {key for key in ours if 'pooler' in key}
    assert ours.keys() - own == theirs.keys()
    for key, tensor in theirs.items():
        if 'mask_token' not in key:
            assert torch.equal(ours[key], tensor), key
    config, theirs = said(folder), said(GOLDEN / name)
    assert config['layer_norm_eps'] == eps
    for key in ('hidden_size', 'num_hidden_layers', 'num_attention_heads',
                'image_size', 'patch_size', 'hidden_act', 'architectures',
                'intermediate_size', 'mlp_ratio'):
        assert config.get(key) == theirs.get(key), key


@pytest.mark.parametrize('kind', ['MAEViT', 'layer scale'])
def test_it_teaches_the_next(tmp_path, kind):
    folder, _, _ = folder_of(tmp_path, kind)
    found = described_folder(str(folder))
    assert found['mean'] == pytest.approx(MEAN)
    assert found['std'] == pytest.approx(STD)
    assert found['model_kwargs']['img_size'] == 32


@pytest.mark.parametrize('family', [
    'DINOv2 with registers', 'SigLIP', 'CLIP', 'DINOv3', 'DeiT, distilled'])
def test_students_of_timm(tmp_path, family):
    config, checkpoint, _ = write_vit(tmp_path, family_cfg(family))
    folder = tmp_path / 'student'
    exported = export_checkpoint(config, checkpoint, str(folder),
                                 'transformers')
    assert exported.differences['tokens'] <= 1e-6
    config = said(folder)
    if family == 'DINOv2 with registers':
        assert config['model_type'] == 'dinov2_with_registers'
        assert config['num_register_tokens'] == 4
        return
    model = timm.create_model(f'local-dir:{folder}', pretrained=True)
    images = timm.data.resolve_model_data_config(model)
    assert images['mean'] == pytest.approx([value / 255 for value in MEAN])
    assert images['crop_mode'] == 'squash'
    assert '.' not in config['architecture']  # a tag


@pytest.mark.parametrize('name', ['convnext_atto', 'vit_tiny_patch16_224'])
def test_students_by_their_maps(tmp_path, name):
    config, checkpoint, _ = write_maps(
        tmp_path, name, **MODELS_OF_TIMM[name])
    exported = export_checkpoint(
        config, checkpoint, str(tmp_path / 'student'), 'transformers')
    assert exported.differences['map'] <= 1e-6
    assert said(tmp_path / 'student')['model_args']['features_only'] is True
    assert exported.usage.endswith('.last_hidden_state[-1]')


def test_what_no_config_can_hold(tmp_path):
    config, checkpoint, _ = write(tmp_path, dict(
        BACKBONES['no CLS'], norm_cfg=dict(type='LN', eps=1e-3)))
    error = refused(config, checkpoint, tmp_path / 'a', 'transformers')
    assert 'no CLS token' in error and 'norm_layer' in error
    assert error.endswith('--to timm, onnx and torch-export can.')
    assert not (tmp_path / 'a').exists()


def test_norms_of_clip_have_a_name(tmp_path):
    config, checkpoint, _ = write(tmp_path, dict(
        BACKBONES['no CLS'], norm_cfg=dict(type='LN', eps=1e-5)))
    exported = export_checkpoint(config, checkpoint, str(tmp_path / 'a'),
                                 'transformers')
    assert exported.differences['tokens'] <= 1e-6


def test_a_wrong_mapping_is_found_out(tmp_path, monkeypatch):
    config, checkpoint, _ = write(tmp_path, BACKBONES['MAEViT'])
    right = transformers_vit._one_each

    def wrong(weights):
        found = right(weights)
        one, two = (f'blocks.1.attn.{kind}.weight' for kind in 'kv')
        found[one], found[two] = found[two], found[one]
        return found

    monkeypatch.setattr(transformers_vit, '_one_each', wrong)
    error = refused(config, checkpoint, tmp_path / 'a', 'transformers')
    assert 'computes something else' in error
    assert not (tmp_path / 'a').exists()


@pytest.mark.parametrize('dst, message', [
    ('student.safetensors', 'looks like a file'),
    ('there', 'there exists already'),
    ('other', r"a folder with other files in it: mine.txt"),
    ('file', 'is a file'),
    ('.', 'a folder with other files'),
])
def test_destinations(tmp_path, dst, message):
    config, checkpoint, _ = write(tmp_path, BACKBONES['MAEViT'])
    for folder, name in (('there', 'config.json'), ('other', 'mine.txt')):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_text('precious')
    (tmp_path / 'file').write_text('precious')
    before = sorted(tmp_path.rglob('*'))
    assert message in refused(config, checkpoint, tmp_path / dst,
                              'transformers')
    if dst != 'there':
        assert message in refused(config, checkpoint, tmp_path / dst,
                                  'transformers', overwrite=True)
    assert sorted(tmp_path.rglob('*')) == before


def test_an_earlier_export_is_replaced(tmp_path):
    (tmp_path / 'student').mkdir()
    (tmp_path / 'student' / 'config.json').write_text('old')
    folder, _, _ = folder_of(tmp_path, 'MAEViT', overwrite=True)
    assert said(folder)['model_type'] == 'vit'
    assert read_tensor_file(str(folder)).tensors


@pytest.fixture(scope='module')
def where(tmp_path_factory):
    """The folder with transformers themselves."""
    return real_transformers.install(tmp_path_factory.mktemp('transformers'))


@pytest.mark.slow
def test_by_transformers_themselves(tmp_path, where):
    """In a process without mmpretrain: features, and pixels of a picture."""
    photo = cv2.resize(np.random.default_rng(0).integers(
        0, 255, (6, 8, 3), np.uint8), (80, 60), interpolation=cv2.INTER_CUBIC)
    Image.fromarray(photo).save(tmp_path / 'photo.png')
    students = {}
    for kind in BACKBONES:
        (tmp_path / kind).mkdir()
        _, _, backbone = folder_of(tmp_path / kind, kind)
        students[tmp_path / kind / 'student'] = partial(tokens_of, backbone)
    for family in FAMILIES:
        folder = tmp_path / f'vit {family}'.replace('\n', ' ')
        folder.mkdir()
        config, checkpoint, model = write_vit(folder, family_cfg(family))
        students[folder / 'student'] = (
            model.backbone.timm_model.forward_features)
        export_checkpoint(config, checkpoint, str(folder / 'student'),
                          'transformers')
    for name in MODELS_OF_TIMM:
        folder = tmp_path / name
        folder.mkdir()
        config, checkpoint, model = write_maps(
            folder, name, **MODELS_OF_TIMM[name])
        students[folder / 'student'] = lambda x, model=model: (
            model.extract_feat(x)[-1])
        export_checkpoint(config, checkpoint, str(folder / 'student'),
                          'transformers')
    real_transformers.load(where, tmp_path / 'photo.png', *students)
    mean, std = (np.reshape(value, (3, 1, 1)) for value in (MEAN, STD))
    for folder, student in students.items():
        found = np.load(f'{folder}.npz')
        size = said(folder, 'preprocessor_config.json')['size']
        size = size['height'], size['width']
        if 'gray' not in str(folder):
            # Our crop of the whole of this picture, which is 4:3. timm's
            # transforms have Pillow, which rounds otherwise than PyTorch.
            ours = FastRandomResizedCrop(
                size, crop_ratio_range=(1, 1), aspect_ratio_range=(4 / 3, ) * 2
            )(dict(img=photo))['img']
            if 'architecture' in said(folder):
                by_pillow = np.asarray(
                    Image.fromarray(photo).resize(size[::-1], Image.BICUBIC))
                assert np.abs(by_pillow - ours.astype(float)).mean() < .5
                ours = by_pillow
            pixels = found['pixels'][0] * std + mean
            assert np.abs(
                pixels - ours.transpose(2, 0, 1)).max() <= 1e-3, folder
        with torch.no_grad():
            wanted = student(torch.from_numpy(found['pixels'])).numpy()
        scale = np.abs(wanted).max()
        assert np.abs(found['last'] - wanted).max() <= 1e-4 * scale, folder
        if said(folder).get('model_type') in ('vit', 'dinov2'):
            np.testing.assert_allclose(
                found['pooled'], found['last'][:, 0], rtol=1e-5, atol=1e-5)


_EXPORT = '''
import runpy, sys
import dmae_mm  # before there are transformers, of which mmpretrain takes some
sys.path.insert(0, sys.argv[2])
sys.exit(runpy.run_path(sys.argv[1])['main'](sys.argv[3:]))
'''


@pytest.mark.slow
def test_transformers_try_what_is_written(tmp_path, where):
    """Where they can be imported, they verify."""
    script = ROOT / 'tools' / 'model_converters' / 'export.py'
    for kind in ('MAEViT', 'average pooling'):
        (tmp_path / kind).mkdir()
        config, checkpoint, _ = write(tmp_path / kind, BACKBONES[kind])
        done = subprocess.run(
            [sys.executable, '-c', _EXPORT, script, where, config, checkpoint,
             tmp_path / kind / 'student', '--to', 'transformers'],
            cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        version = real_transformers.VERSION
        assert f'Loaded by transformers {version}, outputs' in done.stdout
        assert 'was not tried' not in done.stdout
