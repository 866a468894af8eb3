"""Fine-tuning and linear probe against the paper's and MAE's protocol."""
import pytest

from mmengine.optim import build_optim_wrapper

from dmae_mm.host import quietly
from tests.toys.recipes import (FINETUNE, LINEAR, SIZES, TIMM_FINETUNE,
                                TIMM_LINEAR, build, load, shape_of)


@pytest.mark.parametrize('name', FINETUNE)
def test_finetuned_model(name):
    shape = SIZES[FINETUNE[name]]
    model = build(name)
    # The norm behind average pooling replaces the one in front of it.
    assert shape_of(model.backbone) == shape
    assert model.backbone.out_type == 'avg_featmap'
    assert model.backbone.final_norm is False
    assert model.backbone.layers[0].attn.out_drop.drop_prob == 0
    assert model.backbone.layers[11].attn.out_drop.drop_prob == 0.15
    assert model.head.fc.weight.shape == (1000, shape[0])
    assert model.head.loss_module.label_smooth_val == 0.1


def test_what_finetuning_takes_from_mmpretrains_config():
    """The augmentation that the paper asks for."""
    cfg = load('benchmarks/vit-s_finetune_in1k.py')
    pipeline = {
        step.type: step
        for step in cfg.train_dataloader.dataset.pipeline
    }
    assert list(pipeline) == [
        'SeedSample', 'LoadImageFromFile', 'RandomResizedCrop', 'RandomFlip',
        'RandAugment', 'RandomErasing', 'PackInputs'
    ]
    assert pipeline['RandomResizedCrop'].interpolation == 'bicubic'
    rand_augment = pipeline['RandAugment']
    assert (rand_augment.num_policies, rand_augment.total_level,
            rand_augment.magnitude_level,
            rand_augment.magnitude_std) == (2, 10, 9, 0.5)
    assert pipeline['RandomErasing'].erase_prob == 0.25
    resize, crop = cfg.test_dataloader.dataset.pipeline[1:3]
    assert (resize.scale, resize.interpolation) == (256, 'bicubic')
    assert crop.crop_size == 224


def test_what_the_linear_probe_takes_from_mmpretrains_config():
    cfg = load('benchmarks/vit-s_linear_in1k.py')
    assert [(step.type, step.get('interpolation'))
            for step in cfg.train_dataloader.dataset.pipeline] == [
                ('SeedSample', None), ('LoadImageFromFile', None),
                ('RandomResizedCrop', 'bicubic'), ('RandomFlip', None),
                ('PackInputs', None)
            ]


@pytest.mark.parametrize('name', LINEAR)
def test_linear_probe(name):
    shape = SIZES[LINEAR[name]]
    model = build(name)
    assert shape_of(model.backbone) == shape
    assert model.backbone.out_type == 'cls_token'
    trained = {
        name: tuple(parameter.shape)
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
    assert trained == {
        'head.layers.head.weight': (1000, shape[0]),
        'head.layers.head.bias': (1000, )
    }
    assert model.neck.bn.num_features == shape[0]
    assert model.neck.bn.affine is False


def test_a_student_of_timm_is_finetuned_as_others():
    model = build(TIMM_FINETUNE)
    other = build('benchmarks/vit-t_finetune_in1k.py')
    assert shape_of(model.backbone) == SIZES['t']
    assert model.backbone.out_type == 'avg_featmap'
    assert model.backbone.layers[11].drop_path1.drop_prob == pytest.approx(.15)
    assert model.head.fc.weight.shape == other.head.fc.weight.shape
    cfg = load(TIMM_FINETUNE).optim_wrapper.to_dict()
    cfg.update(type='OptimWrapper')
    groups = []
    for each in (model, other):
        with quietly():
            wrapper = build_optim_wrapper(each, cfg)
        groups.append(sorted(
            (group['lr'], group['weight_decay'], group['params'][0].numel())
            for group in wrapper.optimizer.param_groups))
    # Positions are learnt; the norm is behind the patches instead of behind
    # their average, without a difference here.
    ours, theirs = groups
    assert [group for group in ours if group not in theirs] == []
    assert len(ours) == len(theirs)


def test_linear_probe_of_a_student_of_timm():
    model = build(TIMM_LINEAR)
    assert shape_of(model.backbone) == SIZES['t']
    assert model.backbone.out_type == 'cls_token'
    assert [name for name, parameter in model.named_parameters()
            if parameter.requires_grad] == [
                'head.layers.head.weight', 'head.layers.head.bias']
    assert model.neck.bn.num_features == 192
