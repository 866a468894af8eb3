"""Recipes with a teacher of timm, and the one with a hierarchical student.

With random teachers, otherwise in the sizes that are trained.
"""
import pytest
import timm
import torch
from mmengine.config import Config
from mmpretrain.models import HiViT
from mmpretrain.models.selfsup import MAEHiViT
from mmpretrain.registry import MODELS

from tests.toys.recipes import (CONFIGS, HIVIT, SIZES, TIMM_STUDENT,
                                TIMM_TEACHERS, shape_of)


def build(name, **options):
    """As a Runner does, on the CPU, initialised."""
    cfg = Config.fromfile(CONFIGS / name)
    cfg.model.update(options)
    torch.manual_seed(0)
    model = MODELS.build(
        dict(cfg.model, data_preprocessor=cfg.data_preprocessor))
    model.init_weights()
    return model


def build_with_random_teacher(name):
    teacher = Config.fromfile(CONFIGS / name).model.teacher
    if teacher.type == 'TimmTeacher':
        teacher.pretrained = False
    else:
        teacher.checkpoint = None
    return build(name, teacher=dict(teacher, allow_random=True))


def step(model, images):
    """Losses and which of the model's parameters got a gradient."""
    model.train()
    losses = model.loss(images, None)
    sum(losses.values()).backward()
    got = {
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is not None and parameter.grad.abs().sum() > 0
    }
    return {name: loss.item() for name, loss in losses.items()}, got


def trained(model):
    return {
        name
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


@pytest.fixture
def pixels():
    generator = torch.Generator().manual_seed(1)
    return torch.rand(2, 3, 224, 224, generator=generator) * 255


def normalised(pixels):
    """What reaches the student: the numbers of the base config."""
    mean = torch.tensor([123.675, 116.28, 103.53]).view(3, 1, 1)
    std = torch.tensor([58.395, 57.12, 57.375]).view(3, 1, 1)
    return (pixels - mean) / std


@pytest.mark.parametrize('name', TIMM_TEACHERS)
def test_teacher_of_timm(name, pixels, monkeypatch):
    model_name, hub_name = TIMM_TEACHERS[name]
    with torch.device('meta'):
        teacher = MODELS.build(Config.fromfile(CONFIGS / name).model).teacher
    assert teacher.checkpoint == f'hf-hub:{hub_name}'
    assert not teacher.is_loaded

    model = build_with_random_teacher(name)
    assert shape_of(model.backbone) == SIZES['s']
    teacher = model.teacher
    assert teacher.model_name == model_name
    assert (teacher.num_layers, len(teacher.network.blocks)) == (12, 9)
    assert {block.attn.num_heads for block in teacher.network.blocks} == {12}
    assert teacher.patch_grid == (14, 14)
    projector, = model.distill_neck.projectors
    assert projector.weight.shape == (768, 384)

    seen = []
    extract_features = teacher.extract_features

    def spy(images, ids_keep):
        features = extract_features(images, ids_keep)
        seen.append((images, ids_keep, *features))
        return features

    monkeypatch.setattr(teacher, 'extract_features', spy)
    losses, got = step(model, normalised(pixels))
    assert sorted(losses) == ['loss_align_s8_t8', 'loss_recon']
    assert all(0 < loss < 10 for loss in losses.values())
    assert got == trained(model)

    (images, ids_keep, features), = seen
    assert ids_keep.shape == (2, 49)
    assert features.shape == (2, 50, 768)  # CLS and the visible patches
    if 'dinov2' in name:
        assert model.teacher.network.patch_embed.patch_size == (14, 14)
        wanted = torch.nn.functional.interpolate(
            normalised(pixels), (196, 196), mode='bicubic', antialias=True)
    elif 'clip' in name:
        assert type(
            teacher.network.blocks[0].mlp.act).__name__ == 'QuickGELU'
        mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])
        std = torch.tensor([0.26862954, 0.26130258, 0.27577711])
        wanted = (pixels / 255 - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    else:
        wanted = normalised(pixels)
    torch.testing.assert_close(images, wanted, rtol=1e-5, atol=1e-5)


BOTH = 'dmae/vit-s_dmae-mae-dinov2_in1k.py'


def test_two_teachers(pixels):
    """Nothing is left of the teacher of the base config."""
    cfg = Config.fromfile(CONFIGS / BOTH)
    for name, each in cfg.model.teachers.items():
        single = Config.fromfile(CONFIGS / {
            'mae': 'dmae/vit-s_dmae-timm-mae_in1k.py',
            'dinov2': 'dmae/vit-s_dmae-dinov2_in1k.py'
        }[name])
        assert each.teacher == single.model.teacher
        each.teacher.update(pretrained=False, allow_random=True)
    model = build(BOTH, teachers=cfg.model.teachers)
    assert model.teacher is None and set(model.teachers) == {'mae', 'dinov2'}
    losses, got = step(model, normalised(pixels))
    assert list(losses) == [
        'loss_recon', 'loss_align_dinov2_s8_t8', 'loss_align_mae_s8_t8'
    ]
    assert all(0 < loss < 10 for loss in losses.values())
    assert got == trained(model)
    assert not any('teacher' in name for name in model.state_dict())


RECIPE = f"_base_ = '{CONFIGS / 'dmae' / 'vit-s_dmae_in1k.py'}'\n"
TWO = """teachers=dict(
    a=dict(teacher=dict(type='TimmTeacher', allow_random=True,
                        model_name='vit_tiny_patch16_224'),
           aligned_layers=[(0.75, 0.75)]),
    b=dict(teacher=dict(type='TimmTeacher', allow_random=True,
                        model_name='deit3_small_patch16_224'),
           aligned_layers=[(0.75, 0.5)]))"""
NONE = 'teacher=None, aligned_layers=[], distill_neck=None, distill_loss=None'


@pytest.mark.parametrize('text, refused', [
    (f'model = dict({NONE}, {TWO})', ''),
    (f"""model = dict(_delete_=True, type='DMAE', {TWO},
    backbone=dict(type='MAEViT', arch='deit-s', patch_size=16),
    neck=dict(type='MAEPretrainDecoder', embed_dim=384, patch_size=16),
    head=dict(type='MAEPretrainHead', patch_size=16,
              loss=dict(type='PixelReconstructionLoss', criterion='L2')))""",
     ''),
    (f'model = dict({TWO})',
     'so is teacher, aligned_layers, distill_neck, distill_loss, .*set '
     r'teacher=None, aligned_layers=\[\], distill_neck=None, '
     'distill_loss=None'),
    (f'model = dict(teacher=None, aligned_layers=[], {TWO})',
     'so is distill_neck, distill_loss, .*each of'),
])
def test_teachers_in_the_place_of_an_inherited_one(tmp_path, text, refused):
    (tmp_path / 'config.py').write_text(RECIPE + text)
    cfg = Config.fromfile(tmp_path / 'config.py')
    with torch.device('meta'):
        if refused:
            with pytest.raises(ValueError, match=refused):
                MODELS.build(cfg.model)
            return
        model = MODELS.build(cfg.model)
    assert sorted(model.distillations.loss_names) == [
        'loss_align_a_s8_t8', 'loss_align_b_s8_t5']


@pytest.fixture(scope='module')
def hivit():
    return build_with_random_teacher(HIVIT)


def test_hierarchical_student(hivit, pixels):
    assert hivit.backbone.embed_dims == 384
    assert hivit.backbone.depths == [1, 1, 10]
    assert hivit.backbone.num_heads == 6
    assert len(hivit.teacher.network.layers) == 9
    assert hivit.neck.decoder_embed.in_features == 384
    projector, = hivit.distill_neck.projectors
    assert projector.weight.shape == (768, 384)
    losses, got = step(hivit, normalised(pixels))
    assert sorted(losses) == ['loss_align_s7_t8', 'loss_recon']
    assert all(0 < loss < 10 for loss in losses.values())
    assert got == trained(hivit)
    # Another HiViT, of another depth, does not change which block is last.
    MAEHiViT(arch=dict(embed_dims=16, depths=[1, 1, 2], num_heads=1))
    features, = hivit.extract_feat(normalised(pixels))
    assert features.shape == (2, 384, 14, 14)


def test_hierarchical_student_starts_as_its_control_does(hivit, pixels):
    control = build(HIVIT, teacher=None, aligned_layers=[])
    weights = hivit.state_dict()
    for name, tensor in control.state_dict().items():
        assert torch.equal(tensor, weights[name]), name
    assert len(weights) - len(control.state_dict()) == 2  # the projector
    losses, got = step(control, normalised(pixels))
    assert list(losses) == ['loss_recon']
    assert got == trained(control)


def test_hierarchical_student_initialises_itself(hivit):
    """A normal distribution, as HiViT's own code; the decoder Xavier's."""
    weight = hivit.backbone.blocks[-1].attn.qkv.weight
    assert weight.std().item() == pytest.approx(0.02, rel=0.01)
    bound = (6 / (384 + 512))**0.5
    assert 0.9 * bound < hivit.neck.decoder_embed.weight.abs().max() <= bound


def test_mmpretrains_hivit_loads_the_hierarchical_student(hivit):
    weights = {
        name[len('backbone.'):]: tensor
        for name, tensor in hivit.state_dict().items()
        if name.startswith('backbone.')
    }
    HiViT(arch='tiny').load_state_dict(weights, strict=True)


def test_student_of_timm(pixels):
    model = build_with_random_teacher(TIMM_STUDENT)
    assert shape_of(model.backbone) == SIZES['t']
    losses, got = step(model, normalised(pixels))
    assert sorted(losses) == ['loss_align_s8_t8', 'loss_recon']
    assert all(0 < loss < 10 for loss in losses.values())
    # As timm initialises, a CLS token of 1e-6; with learnt positions.
    assert got == trained(model)
    assert 'backbone.timm_model.pos_embed' in got
    weights = {
        name[len('backbone.timm_model.'):]: tensor
        for name, tensor in model.state_dict().items()
        if name.startswith('backbone.')
    }
    timm.create_model(
        'vit_tiny_patch16_224', num_classes=0).load_state_dict(weights)
