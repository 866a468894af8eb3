"""Recipes of students without decoder, with fine-tuning and linear probe.

Students in their real sizes; the teacher is a toy.
"""
import copy
import functools
import re

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmpretrain.registry import MODELS

from tests.toys.config_runs import shrink_run
from tests.toys.models import TEACHER
from tests.toys.recipes import ROWS, STUDENT_VARIATIONS, load

# Of each student: width of the last map and parameters of the backbone, as
# torchvision and timm have them, without classifier.
STUDENTS = {
    'resnet50': (2048, 23_508_032),
    'resnet18': (512, 11_176_512),
    'resnet101': (2048, 42_500_160),
    'convnext-t': (768, 27_820_128),
    'convnext-s': (768, 49_454_688),
    'swin-t': (768, 27_519_354),
    'swin-s': (768, 48_837_258),
    'mobilenetv3-s': (576, 927_008),
    'mobilenetv3-l': (960, 2_971_952),
    'efficientformer-l1': (448, 11_391_928),
    'efficientformer-l3': (512, 30_380_000),
}
FAMILIES = ('resnet50', 'convnext-t', 'swin-t', 'mobilenetv3-s',
            'efficientformer-l1')
FEATURES = [name for name in ROWS if '_features-' in name and not
            name.startswith('vit')]
TOY_TEACHER = dict(
    type='MMPretrainTeacher',
    backbone=dict(type='MAEViT', arch=TEACHER, img_size=224, patch_size=16),
    allow_random=True)


def build_with_toy_teacher(name: str):
    init_default_scope('mmpretrain')
    model = load(name).model.to_dict()
    model['teacher'] = TOY_TEACHER
    return MODELS.build(model)


@functools.lru_cache(maxsize=None)
def shapes(name: str) -> dict:
    """Of a recipe's backbone, by name."""
    model = build_with_toy_teacher(name) if name in FEATURES else MODELS.build(
        load(name).model)
    return {
        key: tuple(tensor.shape)
        for key, tensor in model.backbone.state_dict().items()
    }


def test_every_student_has_all_its_recipes():
    for name in FAMILIES:
        for task in ('features-dinov2', 'features-mae', 'finetune', 'linear'):
            assert f'{name}_{task}' in ROWS
    assert {name.split('_')[0] for name in FEATURES} == {*STUDENTS}


@pytest.mark.parametrize('student', [
    name if name in FAMILIES else pytest.param(name, marks=pytest.mark.slow)
    for name in STUDENTS
])
def test_student(student):
    width, number = STUDENTS[student]
    model = build_with_toy_teacher(f'{student}_features-dinov2')
    assert sum(p.numel() for p in model.backbone.parameters()) == number
    assert all(p.requires_grad for p in model.backbone.parameters())
    projector, = model.distill_neck.projectors
    assert projector.weight.shape == (32, width)


@pytest.mark.parametrize('name, grid, prefix', [
    ('resnet50_features-dinov2', (16, 16), 1),
    ('resnet50_features-mae', (14, 14), 1),
])
def test_teacher(name, grid, prefix):
    """Built alone: its size does not depend on the student."""
    cfg = dict(load(name).model.teacher, aligned_blocks=[-1])
    teacher = MODELS.build(cfg)
    assert (teacher.num_layers, teacher.embed_dims) == (12, 768)
    assert (teacher.img_size, teacher.patch_grid) == ((224, 224), grid)
    assert teacher.num_prefix_tokens == prefix
    assert teacher.checkpoint == f'hf-hub:timm/{teacher.model_name}'


@pytest.mark.parametrize('name', STUDENT_VARIATIONS)
def test_it_is_what_the_page_says(name):
    row = STUDENT_VARIATIONS[name]
    said, model = row.cells['what changes'], load(name).model
    base = load(row.cells['config'].strip('`')).model
    if said.endswith('teaches'):
        family, size = re.match(r"(\w+)'s ViT-(\w)", said).groups()
        assert family.lower() in model.teacher.model_name
        assert dict(b='_base_', l='_large_')[size.lower()] in (
            model.teacher.model_name)
        assert model.backbone == base.backbone
    elif 'hidden' in said:
        assert model.mask_ratio == 0.5
    else:
        title, = re.findall(r'[A-Z]\w+-\w+', said)
        assert name.split('_')[0].replace('-', '') == (
            title.lower().replace('-', ''))


@pytest.mark.parametrize('student', FAMILIES)
@pytest.mark.parametrize('task', ['finetune', 'linear'])
def test_what_comes_after_takes_all_that_was_trained(student, task):
    """The same names and shapes, so that a strict load would do."""
    wanted = shapes(f'{student}_features-dinov2')
    assert shapes(f'{student}_{task}') == wanted
    assert load(f'{student}_{task}').model.backbone.init_cfg == dict(
        type='Pretrained',
        checkpoint='PATH_OF_THE_PRETRAINED_CHECKPOINT',
        prefix='backbone.')


@pytest.mark.parametrize('student', FAMILIES)
def test_linear_probe_trains_the_classifier_alone(student):
    cfg = load(f'{student}_linear')
    model = MODELS.build(cfg.model).train()
    wrapper = build_optim_wrapper(
        model,
        dict(optimizer=cfg.optim_wrapper.optimizer,
             paramwise_cfg=cfg.optim_wrapper.paramwise_cfg))
    names = {id(p): name for name, p in model.named_parameters()}
    trained = {
        names[id(p)]
        for group in wrapper.optimizer.param_groups for p in group['params']
        if group['lr'] > 0 and p.requires_grad
    }
    assert trained == {'head.fc.weight', 'head.fc.bias'}
    assert model.head.fc.in_features == STUDENTS[student][0]
    moving = [
        name for name, module in model.named_modules()
        if module.training and isinstance(
            module, torch.nn.modules.batchnorm._BatchNorm)
    ]
    assert moving == []


def write_images(folder) -> None:
    random = np.random.RandomState(0)
    for index in range(4):
        (folder / str(index % 2)).mkdir(exist_ok=True)
        pixels = random.randint(0, 256, (40, 48, 3)).astype(np.uint8)
        assert cv2.imwrite(f'{folder}/{index % 2}/{index}.png', pixels)


def run(name, images, work_dir, **options) -> Runner:
    """Two iterations of two images."""
    cfg = Config(copy.deepcopy(load(name).to_dict()))
    shrink_run(cfg, images, work_dir)
    for loader in ('train_dataloader', 'val_dataloader'):
        for step in cfg.get(loader, dict(dataset=dict(
                pipeline=())))['dataset']['pipeline']:
            for key in ('scale', 'crop_size'):
                if step.get(key) == 32:
                    # Windows and attention of these are for real images.
                    step[key] = 224 if name.startswith(
                        ('swin', 'efficientformer')) else 64
    cfg.optim_wrapper.optimizer.pop('fused', None)
    cfg.merge_from_dict({
        'train_cfg.max_epochs': 1,
        'default_hooks.checkpoint.interval': 1,
        'experiment_name': name,
        **options
    })
    if 'teacher' in cfg.model:
        cfg.model.teacher = TOY_TEACHER
    else:
        cfg.model.head.num_classes = cfg.data_preprocessor.num_classes = 5
    runner = Runner.from_cfg(cfg)
    runner.train()
    return runner


@pytest.mark.parametrize('student', [
    'resnet18',
    *(pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES),
])
def test_from_any_folder_to_a_classifier(student, tmp_path):
    """Pre-trained on a folder, then fine-tuned and probed."""
    write_images(tmp_path)
    runner = run(f'{student}_features-dinov2', tmp_path, tmp_path / 'run')
    name, = (name for name in runner.message_hub.log_scalars
             if name.startswith('train/loss_align_'))
    assert 0 < runner.message_hub.get_scalar(name).current() < 10
    trained = runner.model.backbone.state_dict()
    options = {
        'model.backbone.init_cfg.checkpoint': str(tmp_path / 'run/epoch_1.pth')
    }
    tasks = {'finetune': student, 'linear': student}
    if student == 'resnet18':  # as the page says
        tasks = {'finetune': 'resnet50'}
        options.update({
            'model.backbone.depth': 18,
            'model.head.in_channels': 512
        })
    for task, name in tasks.items():
        after = run(f'{name}_{task}', tmp_path, tmp_path / task, **options)
        weights = after.model.backbone.state_dict()
        same = [key for key in weights if torch.equal(
            weights[key], trained[key])]
        # The learning rate of the first steps is small, but not 0.
        assert len(same) == len(weights) if task == 'linear' else (
            len(same) < len(weights) / 2)
        accuracy = after.message_hub.get_scalar('val/accuracy/top5').current()
        assert accuracy == 100  # of five classes

