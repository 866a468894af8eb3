"""The section of a config that an error from deep inside comes from."""
import copy
import re

import pytest
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.runner import ValLoop
from mmpretrain.registry import DATASETS, HOOKS, MODELS
from torch.utils.data import DataLoader

from dmae_mm.launch import explain
from tests.toys.models import TOY_MODEL

CFG = Config(dict(
    default_scope='mmpretrain',
    model=copy.deepcopy(TOY_MODEL),
    train_dataloader=dict(dataset=dict(
        type='CustomDataset', data_root='images', pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='Resize', scale=(32, 32))
        ])),
    custom_hooks=[dict(type='TeacherHook'), dict(type='OnlineProbeHook',
                                                 train_root='a', k=3)]))


def explained(registry, section, **changes):
    """What is said of a section that is built with some options changed."""
    cfg = copy.deepcopy(CFG)
    cfg.merge_from_dict(changes)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        with pytest.raises(Exception) as caught:
            built = registry.build(eval(f'cfg.{section}'))
            built()
    return explain(caught.value, cfg)


def test_a_nested_section():
    said = explained(MODELS, 'model', **{'model.head.loss.criterion': 'L7'})
    assert said.startswith(
        'model.head.loss (PixelReconstructionLoss): NotImplementedError: ')
    assert "criterion='L7'" in said


def test_the_student_is_told_from_the_teacher():
    for part in ('model.backbone', 'model.teacher.backbone'):
        said = explained(MODELS, 'model', **{f'{part}.patch_siz': 4})
        assert said.startswith(f'{part} (MAEViT): TypeError: ')
        assert f'{part}.patch_siz = 4' in said


def test_an_unknown_type():
    said = explained(MODELS, 'model', **{'model.head.type': 'Heed'})
    assert said.startswith('model.head.type: KeyError: ')
    assert "default_scope = 'mmpretrain'" in said


def test_an_entry_of_a_list():
    said = explained(HOOKS, 'custom_hooks[1]')
    assert said.startswith('custom_hooks.1 (OnlineProbeHook): TypeError: ')
    assert "test_root" in said and "train_root='a', k=3" in said


def test_a_running_transform():
    cfg = copy.deepcopy(CFG)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        from mmpretrain.registry import TRANSFORMS
        resize = TRANSFORMS.build(
            cfg.train_dataloader.dataset.pipeline[1])
        with pytest.raises(Exception) as caught:
            resize(dict(img='no image'))
    said = explain(caught.value, cfg)
    assert said.startswith(
        'train_dataloader.dataset.pipeline.1 (Resize): AttributeError')
    assert 'scale=(32, 32)' in said


def test_a_data_set():
    said = explained(DATASETS, 'train_dataloader.dataset',
                     **{'train_dataloader.dataset.with_labels': False})
    assert said.startswith('train_dataloader.dataset (CustomDataset): ')
    assert 'train_dataloader.dataset.with_labels = False' in said


def test_an_error_from_elsewhere():
    try:
        raise ValueError('some\n  text')
    except ValueError as error:
        assert explain(error, CFG) == 'ValueError: some text'


def test_variables_of_a_config_are_not_where_an_error_comes_from():
    cfg = copy.deepcopy(CFG)
    pipeline = cfg.train_dataloader.dataset.pipeline
    cfg = Config(dict(train_pipeline=pipeline, **cfg.to_dict()))
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        from mmpretrain.registry import TRANSFORMS
        with pytest.raises(Exception) as caught:
            TRANSFORMS.build(pipeline[1])(dict(img='no image'))
    assert explain(caught.value, cfg).startswith(
        'train_dataloader.dataset.pipeline.1 (Resize): ')


@pytest.mark.parametrize('given', [True, False])
def test_options_that_a_message_names(given):
    changes = {'model.neck.num_patches': 196} if given else {
        'model.backbone.img_size': 64}
    said = explained(MODELS, 'model', **changes).splitlines()
    assert said[0].startswith('model (DMAE): ValueError: neck: num_patches is')
    # The other number follows from sizes of the student; the rest is left out.
    assert said[1:] == [
        f'    model.backbone.img_size = {32 if given else 64}',
        '    model.backbone.patch_size = 8',
        '    model.neck.num_patches = '
        f'{196 if given else TOY_MODEL["neck"]["num_patches"]}',
        '    model.neck.patch_size = 8'
    ]


def test_long_values_are_cut():
    said = explained(MODELS, 'model', **{
        'model.aligned_layers': [(7, 8)],
        'model.backbone.init_cfg': [dict(type='Xavier', layer='Linear')] * 9})
    assert len(said.splitlines()) == 3
    assert '\n    model.aligned_layers = [(7, 8)]' in said
    backbone, = re.findall('model.backbone = (.*)', said)
    assert "'num_layers': 4" in backbone and backbone.endswith('...')
    assert len(backbone) == 243


def test_a_mistyped_option_of_the_host_comes_with_the_legal_ones():
    said = explained(HOOKS, 'custom_hooks[0]', **{
        'custom_hooks.0': dict(type='LoggerHook', intervall=3)})
    assert said.splitlines()[1] == '    custom_hooks.0.intervall = 3'
    assert said.splitlines()[2].startswith(
        '    LoggerHook has no option intervall=3. Its options are: interval, '
        'interval_exp_name, ignore_last, out_dir, ')


def test_a_call_of_what_has_no_type_of_its_own():
    with pytest.raises(TypeError) as caught:
        DataLoader([], batch_sise=4)
    cfg = copy.deepcopy(CFG)
    cfg.train_dataloader.batch_sise = 4
    assert explain(caught.value, cfg).startswith('train_dataloader: TypeError')


def test_the_section_that_was_being_built_is_not_left():
    """A hook builds a data set of a type that the training has, too."""
    dataset = DATASETS.get('CustomDataset')
    with pytest.raises(Exception) as caught:
        dataset(data_root='gone')
    assert explain(caught.value, CFG).startswith('train_dataloader.dataset (')
    assert explain(caught.value, CFG, 'custom_hooks.1').startswith(
        'custom_hooks.1 (OnlineProbeHook): ')


def test_data_of_training_and_of_validation_are_told_apart():
    cfg = copy.deepcopy(CFG)
    cfg.val_dataloader = copy.deepcopy(cfg.train_dataloader)

    class Validation(ValLoop):

        def __init__(self):
            DATASETS.get('CustomDataset')(data_root='gone')

    with pytest.raises(Exception) as caught:
        Validation()
    assert explain(caught.value, cfg).startswith('val_dataloader.dataset (')


def test_an_error_that_was_raised_again_elsewhere():
    with pytest.raises(ValueError) as caught:
        try:
            DATASETS.get('CustomDataset')(data_root='gone')
        except Exception:
            raise ValueError('in other words') from None
    assert explain(caught.value, CFG).startswith(
        'train_dataloader.dataset (CustomDataset): ValueError: in other words')
