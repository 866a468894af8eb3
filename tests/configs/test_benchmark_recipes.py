"""Fine-tuning and linear probe against the paper's and MAE's protocol."""
import pytest

from .recipes import FINETUNE, LINEAR, SIZES, build, load, shape_of


@pytest.mark.parametrize('name', FINETUNE)
def test_finetuning_recipe(name):
    width, depth, heads, num_parameters = SIZES[FINETUNE[name]]
    cfg = load(name)
    model = build(name)
    # The norm behind average pooling replaces the one in front of it.
    assert shape_of(model.backbone) == (width, depth, heads, num_parameters)
    assert model.backbone.out_type == 'avg_featmap'
    assert model.backbone.final_norm is False
    assert model.backbone.layers[0].attn.out_drop.drop_prob == 0
    assert model.backbone.layers[11].attn.out_drop.drop_prob == 0.15
    assert model.head.fc.weight.shape == (1000, width)
    assert model.head.loss_module.label_smooth_val == 0.1
    assert [(augment.type, augment.alpha)
            for augment in cfg.model.train_cfg.augments] == [('Mixup', 0.8),
                                                             ('CutMix', 1.0)]

    assert cfg.train_dataloader.batch_size == 128
    assert cfg.optim_wrapper.optimizer.to_dict() == dict(
        type='AdamW',
        lr=pytest.approx(2e-3),
        betas=(0.9, 0.999),
        weight_decay=0.05)
    assert cfg.optim_wrapper.get('accumulative_counts', 1) == 1
    assert cfg.optim_wrapper.get('clip_grad') is None
    assert cfg.optim_wrapper.paramwise_cfg.layer_decay_rate == 0.75
    warmup, cosine = cfg.param_scheduler
    assert (warmup.begin, warmup.end) == (0, 20)
    assert (cosine.begin, cosine.end, cosine.T_max) == (20, 100, 80)
    assert cfg.train_cfg.max_epochs == 100

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


@pytest.mark.parametrize('name', LINEAR)
def test_linear_probe_recipe(name):
    width, depth, heads, num_parameters = SIZES[LINEAR[name]]
    cfg = load(name)
    model = build(name)
    assert shape_of(model.backbone) == (width, depth, heads, num_parameters)
    assert model.backbone.out_type == 'cls_token'
    trained = {
        name: tuple(parameter.shape)
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
    assert trained == {
        'head.layers.head.weight': (1000, width),
        'head.layers.head.bias': (1000, )
    }
    assert model.neck.bn.num_features == width
    assert model.neck.bn.affine is False

    assert cfg.train_dataloader.batch_size == 2048
    assert cfg.optim_wrapper.optimizer.to_dict() == dict(type='LARS',
                                                         lr=pytest.approx(6.4),
                                                         momentum=0.9,
                                                         weight_decay=0)
    warmup, cosine = cfg.param_scheduler
    assert (warmup.begin, warmup.end) == (0, 10)
    assert (cosine.begin, cosine.end, cosine.T_max) == (10, 90, 80)
    assert cfg.train_cfg.max_epochs == 90
    assert [(step.type, step.get('interpolation'))
            for step in cfg.train_dataloader.dataset.pipeline] == [
                ('SeedSample', None), ('LoadImageFromFile', None),
                ('RandomResizedCrop', 'bicubic'), ('RandomFlip', None),
                ('PackInputs', None)
            ]
