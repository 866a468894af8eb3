import os.path as osp
import sys

import pytest
import timm
import torch
from mmengine.config import Config

from dmae_mm.datasets import survey_images
from dmae_mm.host import build, read_config
from dmae_mm.models import DMAE, FeatureDistiller
from dmae_mm.workflow import derive as derive_config
from dmae_mm.workflow import readable_config
from dmae_mm.workflow.student_choice import choose_student
from dmae_mm.workflow.teacher_choice import choose_teachers
from tests.toys.models import ROOT
from tests.toys.runs import TRAIN, launch


def derive(survey, teachers, student, **options):
    """Of names, as a person gives them."""
    return derive_config(survey, choose_teachers(teachers),
                         choose_student(student), **options)


def said(derived, part):
    """The reasons in which these words stand."""
    return [line for line in derived.reasons if part in line]


def step_of(cfg, name):
    return next(step for step in cfg.train_dataloader.dataset.pipeline
                if step['type'] == name)


def write(path, text):
    path.write_text(text)
    return str(path)


# --- schedule: numbers by hand --------------------------------------------


def test_learning_rate_and_batch_of_few_images(survey, teacher):
    derived = derive(survey(1000), [teacher], 'test_vit')
    cfg = derived.config
    # A tenth of 1000 images is 100; the power of two below is 64.
    assert cfg.train_dataloader.batch_size == 64
    assert cfg.optim_wrapper.accumulative_counts == 1
    assert cfg.optim_wrapper.optimizer.lr == pytest.approx(1.5e-4 * 64 / 256)
    assert cfg.auto_scale_lr == dict(base_batch_size=64, enable=False)
    assert cfg.train_cfg.max_epochs == 100
    assert [part.end for part in cfg.param_scheduler] == [20, 100]
    assert said(derived, 'learning rate') == [
        'learning rate 3.75e-05: 0.00015 for 256 images, and a step has 64']


def test_the_recipe_s_step_with_enough_images(survey, teacher, machine):
    machine(gpu=True, bfloat16=True, memory=80., cores=16)
    cfg = derive(survey(1_281_167), [teacher], 'test_vit').config
    # 72 GiB x 8 images x (224 / 160)^2 are 1129 images; 1024 below.
    assert cfg.train_dataloader.batch_size == 1024
    assert cfg.optim_wrapper.accumulative_counts == 4
    recipe = read_config(
        str(ROOT / 'configs/_base_/schedules/pretrain_100e.py'))
    assert cfg.optim_wrapper.optimizer.lr == pytest.approx(
        recipe.optim_wrapper.optimizer.lr)
    assert cfg.optim_wrapper.type == 'AmpOptimWrapper'
    assert cfg.optim_wrapper.dtype == 'bfloat16'
    assert cfg.train_dataloader.num_workers == 8


def test_a_cpu_accumulates(survey, teacher, machine):
    machine(cores=2)
    derived = derive(survey(100_000), [teacher], 'test_byobnet')
    cfg = derived.config
    # 2 cores x 16 images at once, and 1024 a step.
    assert cfg.train_dataloader.batch_size == 32
    assert cfg.optim_wrapper.accumulative_counts == 32
    assert cfg.optim_wrapper.optimizer.lr == pytest.approx(1e-3)
    assert cfg.optim_wrapper.type == 'OptimWrapper'
    assert 'dtype' not in cfg.optim_wrapper
    assert said(derived, 'at once')


def test_warm_up_in_proportion(survey, teacher):
    cfg = derive(survey(), [teacher], 'test_vit', epochs=10).config
    assert cfg.train_cfg.max_epochs == 10
    assert [(part.get('begin'), part.end) for part in cfg.param_scheduler] == [
        (0, 2), (2, 10)]


def test_quick(survey, teacher):
    cfg = derive(survey(), [teacher], 'test_vit', quick=True).config
    assert cfg.train_dataloader.dataset.type == 'SpreadImages'
    assert cfg.train_dataloader.dataset.num_images == 512
    assert cfg.train_cfg.max_epochs == 3
    assert cfg.param_scheduler[0].end == pytest.approx(0.6)
    assert cfg.train_dataloader.batch_size == 32  # below a tenth of 512
    few = derive(survey(100), [teacher], 'test_vit', quick=True, epochs=1)
    assert few.config.train_dataloader.dataset.type == 'CustomDataset'
    assert few.config.train_cfg.max_epochs == 1


def test_checkpoints_and_pictures(survey, teacher):
    cfg = derive(survey(1000), [teacher], 'test_vit').config
    # 16 batches an epoch: 100 iterations are 6.25 epochs.
    assert cfg.default_hooks.checkpoint.interval == 7
    assert cfg.default_hooks.pictures.interval == 160
    assert cfg.default_hooks.logger.interval == 3


# --- sizes and crops --------------------------------------------------------


@pytest.mark.parametrize('side, size, crop', [
    (375, 160, 0.2),  # its own
    (180, 160, 0.5),  # less than 1.25 x 160
    (80, 160, 0.5),  # half of it is not much smaller
    (79, 112, 0.5),  # 7 patches of 16 pixels
    (32, 112, 0.5)])
def test_size_follows_the_images(survey, teacher, side, size, crop):
    derived = derive(survey(side=side), [teacher], 'test_vit')
    cfg = derived.config
    assert cfg.model.backbone.img_size == size
    assert cfg.model.neck.num_patches == (size // 16)**2
    assert step_of(cfg, 'FastRandomResizedCrop').scale == size
    assert step_of(
        cfg, 'FastRandomResizedCrop').crop_ratio_range == (crop, 1.0)
    assert len(said(derived, f'size {size}')) == 1


def test_a_larger_student_of_small_images(survey, teacher):
    cfg = derive(survey(side=180), [teacher], 'vit_tiny_patch16_384').config
    assert cfg.model.backbone.img_size == 176  # 11 x 16 is nearest to 180


def test_maps_of_small_images(survey, teacher):
    cfg = derive(survey(side=40), [teacher], 'test_byobnet').config
    assert step_of(cfg, 'FastRandomResizedCrop').scale == 128
    assert cfg.model.teacher.img_size == 128  # 8 of its patches, not 10


@pytest.mark.parametrize('student, size, message', [
    ('test_vit', 100, 'multiple of its patches of 16 pixels.* fits: 96'),
    ('test_vit', 16, '1 x 1 patches leave nothing to hide.* fits: 32'),
    ('levit_128s', 100, 'nearest that fits: 96. Its own is 224'),
    ('test_vit', 0, "--size 0 is not a whole number"),
    ('test_vit', '64', "--size '64' is not a whole number")])
def test_sizes_that_do_not_fit(survey, teacher, student, size, message):
    with pytest.raises(ValueError, match=message):
        derive(survey(), [teacher], student, size=size)


# --- students ---------------------------------------------------------------


def test_a_vit_of_timm(survey, teacher):
    derived = derive(survey(), [teacher], 'test_vit', size=64)
    model = derived.config.model
    assert derived.student_kind == 'masked'
    assert model.type == 'DMAE'
    assert model.backbone == dict(
        type='MaskedTimmViT', model_name='test_vit', img_size=64,
        mask_ratio=0.75)
    assert model.neck.embed_dim == 64
    # The paper's has 25 million parameters, the student 0.3.
    assert (model.neck.decoder_embed_dim, model.neck.decoder_depth,
            model.neck.decoder_num_heads) == (64, 2, 2)
    assert model.aligned_layers == [(0.75, 0.75)]
    assert model.distill_loss.criterion == 'L1'
    built = build(model, 'the model')
    assert isinstance(built, DMAE)
    assert built.teacher.patch_grid == (4, 4)


def test_the_paper_s_decoder_of_a_vit_b(survey, teacher):
    derived = derive(survey(), [teacher], 'vit_base_patch16_224')
    neck = derived.config.model.neck
    assert (neck.decoder_embed_dim, neck.decoder_depth) == (512, 8)
    assert len(derived.warnings) == 1
    assert '85.8 million parameters, more than the 0.833' in (
        derived.warnings[0])


def test_another_model_of_timm(survey, teacher):
    derived = derive(survey(), [teacher], 'test_byobnet')
    cfg = derived.config
    assert derived.student_kind == 'features'
    assert cfg.model.type == 'FeatureDistiller'
    assert cfg.model.backbone == dict(
        type='TIMMBackbone', model_name='test_byobnet')
    assert cfg.model.distill_loss.normalize == 'layer'
    assert cfg.model.aligned_layers == [(-1, -1)]
    assert 'neck' not in cfg.model and 'pictures' not in cfg.default_hooks
    assert 'img_size' not in cfg.model.teacher  # 160 as the student
    assert isinstance(build(cfg.model, 'the model'), FeatureDistiller)


@pytest.mark.parametrize('backbone, kind, type_', [
    ("type='ResNet', depth=18, base_channels=8, stem_channels=8, "
     "init_cfg=dict(type='Pretrained', checkpoint='x.pth'), frozen_stages=1",
     'features', 'ResNet'),
    ("type='SwinTransformer', arch=dict(embed_dims=16, depths=[1, 1, 1, 1], "
     'num_heads=[1, 1, 2, 2])', 'features', 'SwinTransformer'),
    ("type='VisionTransformer', arch='deit-t', img_size=64, patch_size=16, "
     'drop_path_rate=0.1', 'masked', 'MAEViT'),
    ("type='VisionTransformer', arch='deit-t', img_size=64, pre_norm=True",
     'features', 'VisionTransformer'),
    ("type='MAEViT', arch='deit-t', mask_ratio=0.9", 'masked', 'MAEViT'),
    ("type='TIMMBackbone', model_name='test_vit', pretrained=True", 'masked',
     'MaskedTimmViT'),
    ("type='SimMIMSwinTransformer', img_size=192, arch=dict(embed_dims=16, "
     'depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2])', 'simmim',
     'SimMIMSwinTransformer'),
    ("type='SparseResNet', depth=50, out_indices=(0, 1, 2, 3)", 'spark',
     'SparseResNet')])
def test_a_config_of_mmpretrain(survey, teacher, tmp_path, backbone, kind,
                                type_):
    path = write(tmp_path / 'student.py',
                 f'model = dict(backbone=dict({backbone}))')
    derived = derive(survey(), [teacher], path)
    model = derived.config.model
    assert (derived.student_kind, model.backbone.type) == (kind, type_)
    assert not {'frozen_stages', 'pretrained', 'drop_path_rate'} & (
        model.backbone.keys())
    assert (model.type == 'FeatureDistiller') is (kind == 'features')
    if type_ == 'ResNet':
        assert 'init_cfg' not in model.backbone
    if '0.9' in backbone:
        assert model.backbone.mask_ratio == 0.9
    if kind == 'simmim':
        assert model.neck.in_channels == 16 * 8
        assert step_of(derived.config, 'SimMIMMaskGenerator').input_size == 192
    if type_ == 'MAEViT':
        assert model.neck.embed_dim == 192
        # As the recipe, so that a run without teacher starts alike.
        assert model.backbone.init_cfg


def test_a_name_of_the_model_zoo(survey, teacher):
    derived = derive(survey(), [teacher], 'deit-tiny_4xb256_in1k')
    assert derived.config.model.backbone.type == 'MAEViT'
    assert derived.config.model.backbone.arch == 'deit-tiny'


@pytest.mark.parametrize('student, message', [
    ('vit_tinny_patch16_224', 'of timm vit_tiny_patch16_224'),
    ('deit-tinny_4xb256_in1k', 'of mmpretrain deit-tiny_4xb256_in1k'),
    ('resnet51', 'of timm resnet51q'),
    ('tnt-small-p16_3rdparty_in1k', 'returns no map')])
def test_students_that_there_are_not(survey, teacher, student, message):
    with pytest.raises(ValueError, match=message):
        derive(survey(), [teacher], student)


def test_a_config_that_is_not_there(survey, teacher):
    with pytest.raises(FileNotFoundError, match='no config'):
        derive(survey(), [teacher], 'configs/not_there.py')


# --- teachers ---------------------------------------------------------------


def test_several_teachers(survey, teacher):
    other = 'vit_small_patch14_dinov2.lvd142m'
    model = derive(survey(), [teacher, other], 'test_vit').config.model
    assert {*model.teachers} == {'test_vit3', 'dinov2'}
    assert {'teacher', 'aligned_layers', 'distill_neck',
            'distill_loss'}.isdisjoint(model)
    assert model.teachers.dinov2 == dict(
        teacher=dict(type='TimmTeacher', model_name=other, pretrained=True),
        aligned_layers=[(0.75, 0.75)],
        distill_neck=model.teachers.test_vit3.distill_neck,
        distill_loss=model.teachers.test_vit3.distill_loss)
    assert model.teachers.test_vit3.distill_loss.criterion == 'L1'


def test_teachers_of_one_family(survey, teacher):
    names = ['vit_small_patch14_dinov2.lvd142m',
             'vit_small_patch14_reg4_dinov2.lvd142m']
    model = derive(survey(), names, 'test_byobnet', size=224).config.model
    assert {*model.teachers} == {'dinov2', 'dinov2_2'}
    # 16 x 16 patches instead of 37 x 37, as in the recipe.
    assert model.teachers.dinov2.teacher.img_size == 224


@pytest.mark.parametrize('teachers, message', [
    ([], 'No teacher is given'),
    (['test_vit', 'test_vit'], "'test_vit' is given twice"),
    (['vit_base_patch14_dinov3.lvd'], 'vit_base_patch1')])
def test_teachers_that_cannot_teach(survey, teachers, message):
    with pytest.raises(ValueError, match=message):
        derive(survey(), teachers, 'test_vit')


# --- images -----------------------------------------------------------------


@pytest.mark.parametrize('changes, message', [
    (dict(num_images=7), 'holds 7 images. A training needs at least 8'),
    (dict(broken=[('a.png', 'cut off')] * 6), '6 of 56 .* are broken')])
def test_images_that_are_too_few(survey, teacher, changes, message):
    with pytest.raises(ValueError, match=message):
        derive(survey(**changes), [teacher], 'test_vit')


def test_few_images_make_a_small_batch(survey, teacher):
    cfg = derive(survey(8), [teacher], 'test_vit').config
    assert cfg.train_dataloader.batch_size == 8
    assert cfg.optim_wrapper.accumulative_counts == 1


def test_channels_that_are_no_colours(survey, teacher):
    derived = derive(survey(channels=5, value_range=(0, 4095)), [teacher],
                     'test_vit')
    cfg = derived.config
    load = step_of(cfg, 'LoadImageOrSkip')
    assert (load.channels, load.value_range) == (5, (0, 4095))
    assert cfg.model.teacher.channels == [0, 1, 2]
    assert 'channels [0, 1, 2]' in derived.warnings[0]
    model = dict(cfg.model, data_preprocessor=cfg.data_preprocessor)
    build(model, 'the model')


# --- the config as a whole --------------------------------------------------


@pytest.mark.parametrize('student', ['test_vit', 'test_byobnet'])
def test_the_config_is_read_back(survey, teacher, tmp_path, student):
    cfg = derive(survey(), [teacher], student).config
    written = write(tmp_path / 'readable.py', readable_config(cfg))
    cfg.dump(str(tmp_path / 'dumped.py'))
    for path in (written, str(tmp_path / 'dumped.py')):
        assert Config.fromfile(path).to_dict() == cfg.to_dict()
    text = open(written).read()
    assert '_base_' not in text and '_scope_' not in text
    assert text.count(osp.sep * 2) == 0
    paths = [word for word in text.replace("'", ' ').split()
             if osp.isabs(word)]
    assert {*paths} == {osp.abspath('images'), teacher.partition('=')[2]}
    assert text.index('model = ') < text.index('train_dataloader = ') < (
        text.index('optim_wrapper = '))


# --- trainings --------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize('student, teachers', [
    ('test_byobnet', 1), ('test_vit', 2)])
def test_a_derived_config_trains(photos, teacher, tmp_path, student,
                                 teachers):
    other = tmp_path / 'other.pth'
    torch.save(timm.create_model('test_vit2').state_dict(), other)
    derived = derive(
        survey_images(photos), [teacher, f'test_vit2={other}'][:teachers],
        student, size=64, epochs=2)
    path = write(tmp_path / 'config.py', readable_config(derived.config))
    work_dir = tmp_path / 'run'
    command = [sys.executable, TRAIN, path, '--work-dir', work_dir]
    assert 'Everything works' in launch([*command, '--check'], tmp_path)
    launch(command, tmp_path)
    # 16 images: two steps of 8 an epoch.
    assert (work_dir / 'epoch_2.pth').is_file()
    pictures = list(work_dir.rglob('reconstruction_0_*.png'))
    assert bool(pictures) is (student == 'test_vit')
