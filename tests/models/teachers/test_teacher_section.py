"""A teacher from one string, as people type it."""
import json
import os
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
from mmengine.config import Config
from mmpretrain.registry import MODELS

from dmae_mm.models.student_input import StudentInput
from dmae_mm.models.teachers import timm_matches
from dmae_mm.models.teachers.teacher_section import (TeacherSection,
                                                     teacher_name,
                                                     teacher_section)
from dmae_mm.weights import export_checkpoint
from dmae_mm.weights.origin import Origin
from tests.toys import timm_architectures as toys
from tests.toys.hugging_face import GOLDEN
from tests.toys.models import TEACHER, randomize

ARCHITECTURES = timm_matches._architectures
TOY, HEADS, QUICK, REGISTERS = toys.ARCHITECTURES
BACKBONE = dict(
    type='MAEViT', arch=TEACHER, img_size=32, patch_size=8, mask_ratio=.75,
    init_cfg=dict(type='Xavier', layer='Linear'))
PREPROCESSOR = dict(
    type='SelfSupDataPreprocessor', mean=[120., 110., 100.],
    std=[60., 55., 50.], bgr_to_rgb=True)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(timm_matches, '_architectures',
                        lambda: list(toys.ARCHITECTURES))
    return tmp_path


def save(path, name=TOY, meta=None, **kwargs):
    model = timm.create_model(name, **kwargs)
    randomize(model)
    safetensors.torch.save_file(model.state_dict(), path, meta)
    return model.eval()


def write_config(path='config.py', **model):
    Config(
        dict(
            default_scope='mmpretrain',
            model=dict(
                type='MAE', backbone=BACKBONE, data_preprocessor=PREPROCESSOR)
            | model)).dump(path)
    return path


def build(section, **options):
    student = StudentInput((32, 32), (4, 4), 3, (0., ) * 3, (1., ) * 3, True)
    teacher = MODELS.build(
        dict(section, aligned_blocks=[-1], student_input=student, **options))
    teacher.init_weights()
    return teacher


def mean_of(teacher):
    return tuple(round(value, 3) for value in teacher.image_matcher.mean)


# -- names ------------------------------------------------------------------


@pytest.mark.parametrize('spec', [
    'vit_tiny_patch16_224.augreg_in21k',
    'timm/vit_tiny_patch16_224.augreg_in21k',
    'hf-hub:timm/vit_tiny_patch16_224.augreg_in21k',
])
def test_a_name_of_timm(spec):
    assert teacher_section(spec) == dict(
        type='TimmTeacher',
        model_name='vit_tiny_patch16_224.augreg_in21k',
        pretrained=True)


@pytest.mark.parametrize('spec, error, message', [
    ('vit_tiny_patch16_22', ValueError, 'vit_tiny_patch16_224'),
    ('vit-base-p14_dinov2-pre', ValueError, 'vit-base-p14_dinov2-pre_3rdpart'),
    ('vit_tiny_patch16_224.mae', ValueError,
     "no weights 'mae' of vit_tiny_patch16_224. It has: "
     'vit_tiny_patch16_224.augreg_in21k, '),
    ('resnet18', ValueError, "'resnet18' is a ResNet, which cannot"),
    ('vit_base_patch16_gap_224', ValueError, 'timm names no weights'),
    ('resnet50_8xb32_in1k', ValueError, "has type='ResNet' as backbone"),
    ('vit-s_dmae_in1k', ValueError, 'vit-s_dmae_in1k=FILE'),
    ('config.py', ValueError, 'config.py=FILE'),
    ('gone.py', FileNotFoundError, "no file 'gone.py'"),
    ('gone.pth', FileNotFoundError, "no file 'gone.pth'"),
    ('vit_tiny_patch16_224.pth', FileNotFoundError, 'no file'),
    ('/gone/run=3/x.pth', FileNotFoundError, "file '/gone/run=3/x.pth'"),
    ('facebook/dinov2-base', FileNotFoundError,
     'hf download facebook/dinov2-base'),
    ('vit_tiny_patch16_224=gone.pth', FileNotFoundError, "'gone.pth'"),
    ('config.py=gone.pth', FileNotFoundError, "'gone.pth'"),
    ('vit_tiny_patch16_22=there.pth', ValueError, 'vit_tiny_patch16_224, '),
    ('', ValueError, 'NAME=FILE'),
])
def test_refusals(spec, error, message):
    write_config()
    Path('there.pth').write_text('never read')
    with pytest.raises(error) as found:
        teacher_section(spec)
    assert message in str(found.value)


@pytest.mark.parametrize('spec, name', [
    ('vit_base_patch14_dinov2.lvd142m', 'vit_base_patch14_dinov2_lvd142m'),
    ('vit_base_patch16_224.mae=/a/b.pth', 'vit_base_patch16_224_mae'),
    ('configs/dmae/vit-s_dmae_in1k.py=epoch_1.pth', 'vit_s_dmae_in1k'),
    ('mae_vit-base-p16_8xb512-amp-coslr-800e_in1k',
     'mae_vit_base_p16_8xb512_amp_coslr_800e_in1k'),
    ('/models/dinov2-base/', 'dinov2_base'),
    ('/models/dinov2-base/model.safetensors', 'dinov2_base'),
    ('1b.pth', 'teacher_1b'),
])
def test_a_short_name_is_an_identifier(spec, name):
    assert teacher_name(spec) == name
    assert name.isidentifier()


# -- with a file -------------------------------------------------------------


@pytest.mark.parametrize('file', ['own.safetensors', 'run=3/a=b.safetensors'])
def test_a_name_and_its_file(file, images):
    os.makedirs(os.path.dirname(file) or '.', exist_ok=True)
    model = save(file)
    section = teacher_section(f'{TOY}.mae={file}')
    assert section == dict(
        type='TimmTeacher', model_name=f'{TOY}.mae', checkpoint=file)
    teacher = build(section)
    expected = {}
    model.blocks[-1].register_forward_hook(
        lambda module, args, output: expected.update(last=output))
    matched = teacher.image_matcher(images)
    model(matched)
    torch.testing.assert_close(teacher(images)[0], expected['last'])
    assert mean_of(teacher) == (123.675, 116.28, 103.53)


def test_a_folder_of_results_hides_no_name(folder):
    (folder / 'vit_tiny_patch16_224').mkdir()
    assert teacher_section('vit_tiny_patch16_224')['pretrained'] is True


def test_an_address_is_not_looked_for():
    url = 'https://example.org/vit?name=a'
    assert teacher_section(f'{TOY}={url}')['checkpoint'] == url


def test_a_config_and_its_file():
    os.makedirs('run=3')
    path = write_config('run=3/config.py')
    Path('a=b.pth').write_text('')
    assert teacher_section(f'{path}=a=b.pth') == dict(
        type='MMPretrainTeacher',
        backbone=dict(type='MAEViT', arch=TEACHER, img_size=32, patch_size=8),
        checkpoint='a=b.pth',
        mean=[120., 110., 100.],
        std=[60., 55., 50.])


def test_a_config_that_keeps_bgr():
    path = write_config(
        data_preprocessor=dict(PREPROCESSOR, bgr_to_rgb=False))
    Path('a.pth').write_text('')
    assert teacher_section(f'{path}=a.pth')['channels'] == [2, 1, 0]


def test_a_config_of_a_timm_student():
    path = write_config(
        backbone=dict(
            type='MaskedTimmViT', model_name=TOY, img_size=16,
            model_kwargs=dict(drop_path_rate=.1)))
    Path('a.pth').write_text('')
    section = teacher_section(f'{path}=a.pth')
    assert section == dict(
        type='TimmTeacher',
        model_name=TOY,
        model_kwargs=dict(drop_path_rate=.1, img_size=16),
        checkpoint='a.pth',
        mean=[120., 110., 100.],
        std=[60., 55., 50.])


def test_the_model_zoo():
    name = 'mae_vit-base-p16_8xb512-amp-coslr-800e_in1k'
    section = teacher_section(name)
    assert section['checkpoint'].startswith('https://')
    assert section['backbone'] == dict(type='MAEViT', arch='b', patch_size=16)
    assert section['mean'] == [123.675, 116.28, 103.53]
    Path('a.pth').write_text('')
    assert teacher_section(f'{name}=a.pth') == dict(
        section, checkpoint='a.pth')


@pytest.mark.parametrize('spec', ['dinov2', 'dinov2/model.safetensors'])
def test_a_folder_of_hugging_face(spec):
    path = str(GOLDEN / spec)
    section = teacher_section(path)
    assert section == dict(type='TimmTeacher', checkpoint=path)
    assert build(section).embed_dims == 16


def test_a_folder_of_nothing(folder):
    (folder / 'empty').mkdir()
    with pytest.raises(ValueError, match='no config.json'):
        teacher_section('empty')


# -- a file alone -----------------------------------------------------------


def run_checkpoint(path, cfg_path, backbone):
    model = MODELS.build(backbone)
    randomize(model)
    torch.save(
        dict(
            state_dict={f'backbone.{k}': v
                        for k, v in model.state_dict().items()},
            meta=dict(cfg=Config.fromfile(cfg_path).pretty_text)), path)
    return model


@pytest.mark.parametrize('exported', [False, True])
@pytest.mark.parametrize('backbone, kind', [
    (BACKBONE, 'MMPretrainTeacher'),
    (dict(type='MaskedTimmViT', model_name=QUICK), 'TimmTeacher'),
], ids=['mmpretrain', 'timm'])  # yapf: disable
def test_what_a_student_says_itself(exported, backbone, kind, images):
    path = write_config(backbone=backbone)
    model = run_checkpoint('epoch_1.pth', path, backbone)
    file = 'epoch_1.pth'
    if exported:
        file = 'student.safetensors'
        export_checkpoint(path, 'epoch_1.pth', file, 'timm')
    found = TeacherSection.of(file)
    assert found.section['type'] == kind
    assert found.section['checkpoint'] == file
    assert f'says itself that it is of a {backbone["type"]}' in found.note
    teacher = build(found.section)
    assert mean_of(teacher) == (120., 110., 100.)
    blocks, expected = model.layers, {}
    blocks[-1].register_forward_hook(
        lambda module, args, output: expected.update(last=output))
    model.eval()
    model(teacher.image_matcher(images), mask=None)
    torch.testing.assert_close(teacher(images)[0], expected['last'])


def test_an_exported_file_of_another_size():
    path = write_config()
    run_checkpoint('epoch_1.pth', path, BACKBONE)
    export_checkpoint(
        path, 'epoch_1.pth', 'big.pth', 'mmpretrain', img_size=(48, 32))
    section = teacher_section('big.pth')
    assert section['backbone']['img_size'] == [48, 32]


def test_a_student_that_cannot_teach():
    backbone = dict(type='ResNet', depth=18)
    torch.save(
        dict(
            state_dict=dict(x=torch.zeros(1)),
            meta=dict(
                cfg=Config(dict(model=dict(backbone=backbone))).pretty_text)),
        'epoch_1.pth')
    with pytest.raises(ValueError, match="in epoch_1.pth has type='ResNet'"):
        teacher_section('epoch_1.pth')


def test_shapes_that_only_one_has():
    save('a.safetensors', REGISTERS)
    found = TeacherSection.of('a.safetensors')
    # Of the same normalisation, either name does.
    assert found.section == dict(
        type='TimmTeacher', model_name=f'{REGISTERS}.one',
        checkpoint='a.safetensors')
    assert f'Taken for {REGISTERS}.one of timm' in found.note
    assert build(found.section).num_prefix_tokens == 4


def test_shapes_that_several_have():
    save('a.safetensors')
    with pytest.raises(ValueError) as found:
        teacher_section('a.safetensors')
    _, *lines = str(found.value).splitlines()
    # Heads, activation and normalisation differ; .one and .same do not.
    assert [line.split()[0] for line in lines] == [
        f'{TOY}.mae=a.safetensors', f'{TOY}.one=a.safetensors',
        f'{HEADS}.one=a.safetensors', f'{QUICK}.one=a.safetensors'
    ]
    assert f'as {TOY}.same)' in lines[1]
    assert 'mean=(0.485, 0.456, 0.406)' in lines[0]
    for line in lines:
        assert teacher_section(line.split()[0])['type'] == 'TimmTeacher'


@pytest.mark.parametrize('path', [
    f'{QUICK}.one.safetensors',
    f'models--timm--{QUICK}.one/snapshots/1f/a.safetensors'
])
def test_a_path_that_names_one_of_them(path):
    os.makedirs(os.path.dirname(path) or '.', exist_ok=True)
    save(path)
    found = TeacherSection.of(path)
    assert found.section['model_name'] == f'{QUICK}.one'
    assert 'the path names it' in found.note


def test_a_file_that_says_heads_and_normalisation():
    meta = {
        name: json.dumps(value) for name, value in Origin(
            num_heads=4, mean=(1., 2., 3.), std=(4., 5., 6.)).as_meta().items()
    }
    save('a.safetensors', HEADS, meta)
    section = teacher_section('a.safetensors')
    assert section['model_name'] == HEADS
    assert mean_of(build(section)) == (1., 2., 3.)


def test_a_file_of_another_size():
    save('a.safetensors', REGISTERS, img_size=48)
    section = teacher_section('a.safetensors')
    assert section['model_kwargs'] == dict(img_size=48)
    build(section)


def test_a_file_of_another_library(images):
    """MoCo's prefix: normalised by ImageNet's, as all of MoCo."""
    model = timm.create_model(REGISTERS, reg_tokens=0)
    randomize(model)
    torch.save(
        dict(
            state_dict={
                f'base_encoder.{name}': tensor
                for name, tensor in model.state_dict().items()
            }), 'moco.pth')
    with pytest.raises(ValueError) as found:
        teacher_section('moco.pth')
    lines = str(found.value).splitlines()[1:]
    # No doubt about mean and std is left.
    assert [line.split('.')[0].strip() for line in lines] == [
        TOY, HEADS, QUICK
    ]
    assert 'mean' not in ''.join(lines)


@pytest.mark.parametrize('content, message', [
    (lambda: timm.create_model('resnet18').state_dict(), 'it is a ResNet'),
    (lambda: timm.create_model(TOY, embed_dim=24).state_dict(),
     'no plain vision transformer of timm has its shapes'),
    (lambda: {
        name: tensor
        for name, tensor in timm.create_model(TOY).state_dict().items()
        if 'blocks.1' not in name
    }, 'no plain vision transformer of timm has its shapes'),
    (lambda: MODELS.build(dict(BACKBONE, arch=dict(
        embed_dims=16, num_layers=2, num_heads=2,
        feedforward_channels=64))).state_dict(),
     "has mmpretrain's names and does not say how its images"),
])
def test_files_that_are_of_nothing_known(content, message):
    torch.save(content(), 'vit-base-p16.pth')
    with pytest.raises(ValueError, match=message):
        teacher_section('vit-base-p16.pth')


def test_nothing_is_executed():

    class Payload:

        def __reduce__(self):
            return Path.write_text, (Path('ran'), 'x')

    torch.save(dict(state_dict=Payload()), 'hostile.pth')
    with pytest.raises(ValueError):
        teacher_section('hostile.pth')
    assert not Path('ran').exists()


def test_timms_own_architectures(monkeypatch):
    """The true list of names, for one file of true size."""
    monkeypatch.setattr(timm_matches, '_architectures', ARCHITECTURES)
    name = 'eva02_tiny_patch14_224'
    torch.save(timm.create_model(name).state_dict(), 'a.pth')
    assert teacher_section('a.pth') == dict(
        type='TimmTeacher', model_name=f'{name}.mim_in22k',
        checkpoint='a.pth')
    assert {'vit_base_patch16_224', 'deit_base_distilled_patch16_224'
            } <= set(ARCHITECTURES())
