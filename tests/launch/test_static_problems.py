"""What is refused before anything is built, and what is not."""
import pytest
from mmengine.config import Config

from dmae_mm.launch import crop_size, static_problems


def problems(**changes):
    cfg = Config(dict(
        model=dict(type='X'), train_cfg=dict(max_epochs=2),
        optim_wrapper=dict(type='W', optimizer=dict(type='Y')),
        train_dataloader=dict(
            batch_size=2, dataset=dict(type='D'), sampler=dict(type='S'))))
    cfg.merge_from_dict(changes)
    return static_problems(cfg)


@pytest.mark.parametrize('option, value, legal', [
    ('randomness.seed', -1, 'an int from 0 to 4294967295'),
    ('train_dataloader.batch_size', 2.5, 'an int of at least 1'),
    ('train_dataloader.num_workers', 2000, 'an int from 0 to 1024'),
    ('train_cfg.max_iters', True, 'an int of at least 1'),
    ('train_dataloader.collate_fn', 8, "a dict with a 'type'"),
    ('optim_wrapper.optimizer', [1], "a dict with a 'type'"),
    ('param_scheduler', {}, "a dict with a 'type'"),
    ('param_scheduler', dict(T_max=3), "a dict with a 'type'"),
    ('custom_hooks', 'EMAHook', 'a list'),
    ('default_hooks.logger', dict(interval=1), "a dict with a 'type'"),
])
def test_what_is_refused(option, value, legal):
    problem, = problems(**{option: value})
    assert problem == f'{option}={value!r} is not {legal}'


@pytest.mark.parametrize('changes', [
    {},
    {'randomness.seed': 0},
    {'train_dataloader.collate_fn': lambda samples: samples},
    {'param_scheduler': [dict(type='LinearLR')]},
    {'param_scheduler': dict(student=[dict(type='LinearLR')])},
    {'default_hooks.logger': None},
    {'optim_wrapper': dict(_delete_=True, constructor='C',
                           student=dict(optimizer=dict(type='Y')))},
])
def test_what_is_not(changes):
    assert problems(**changes) == []


@pytest.mark.parametrize('std, good', [(127.5, True), ([1, 2.], True),
                                       ([[1, 0]], False), ('text', False)])
def test_normalisation(std, good):
    found = problems(data_preprocessor=dict(mean=[0, 0], std=std))
    assert found == ([] if good else [
        f'data_preprocessor.std={std!r} must be finite numbers above 0'])


CROP = dict(type='mmpretrain.FastRandomResizedCrop', scale=96)
SIZES = [  # backbone, pipeline, what is named
    (dict(type='MAEViT', img_size=224), [dict(type='Load'), CROP],
     'pipeline.1.scale=96'),
    (dict(type='MAEViT'), [CROP, dict(type='Pack')], 'pipeline.0.scale=96'),
    (dict(type='mmpretrain.MAEHiViT', img_size=(224, 224)),
     [dict(type='CenterCrop', crop_size=(96, 96))],
     'pipeline.0.crop_size=(96, 96)'),
    (dict(type='MAEViT'), [dict(CROP, scale=224),
                           dict(type='Resize', scale=(224, 96))],
     'pipeline.1.scale=(224, 96)'),
    (dict(type='MAEViT', img_size=96), [CROP], None),
    (dict(type='MAEViT'), [CROP, dict(type='Resize', scale=(224, 224))], None),
    (dict(type='MAEViT'), [CROP, dict(type='Pad', size=(224, 224))], None),
    (dict(type='MAEViT'), [dict(type='ResizeEdge', scale=96)], None),
    (dict(type='MaskedTimmViT', model_name='vit_tiny_patch16_224'), [CROP],
     'pipeline.0.scale=96'),
    (dict(type='MaskedTimmViT', model_name='vit_tiny_patch16_224',
          img_size=96), [CROP], None),
    (dict(type='MaskedTimmViT', model_name='no_such_model'), [CROP], None),
    (dict(type='VisionTransformer'), [CROP], None),  # resamples positions
    (dict(type='ResNet'), [CROP], None),
]


@pytest.mark.parametrize('nested', [False, True])
@pytest.mark.parametrize('backbone, pipeline, named', SIZES)
def test_crop_and_model_of_different_sizes(backbone, pipeline, named, nested):
    dataset, option = dict(type='D', pipeline=pipeline), 'dataset'
    if nested:
        dataset, option = dict(type='E', dataset=dataset), 'dataset.dataset'
    found = problems(**{'model.backbone': backbone,
                        'train_dataloader.dataset': dataset})
    if not named:
        assert not any('img_size' in problem for problem in found)
        return
    size = backbone.get('img_size', 224)
    size = 224 if isinstance(size, tuple) else size
    problem, = found
    place = f'train_dataloader.{option}.{named}'
    assert problem.startswith(f'{place} gives images of another size than '
                              f'model.backbone.img_size={size}: set '
                              f'{place.split("=")[0]}={size}, or img_size')


MASK = dict(type='SimMIMMaskGenerator', input_size=96)
MASKED = [  # model, pipeline, what is said
    (dict(backbone=dict(type='SimMIMSwinTransformer', img_size=96)),
     [CROP, MASK], None),
    (dict(backbone=dict(type='SimMIMSwinTransformer', img_size=96)), [CROP],
     'has no SimMIMMaskGenerator'),
    (dict(backbone=dict(type='SimMIMSwinTransformer', img_size=96)),
     [CROP, dict(MASK, input_size=64)],
     '.1.input_size=64 is another size than model.backbone.img_size=96'),
    (dict(backbone=dict(type='SimMIMSwinTransformer', img_size=192)),
     [CROP, dict(type='SimMIMMaskGenerator')],
     '.0.scale=96 is another size than model.backbone.img_size=192'),
    (dict(backbone=dict(type='SparseResNet'), input_size=96), [CROP], None),
    (dict(backbone=dict(type='SparseConvNeXt')), [CROP],
     '.0.scale=96 is another size than model.input_size=224'),
]


@pytest.mark.parametrize('model, pipeline, said', MASKED)
def test_masks_and_crops_of_students_of_simmim_and_spark(
        model, pipeline, said):
    found = problems(**{f'model.{key}': part for key, part in model.items()},
                     **{'train_dataloader.dataset.pipeline': pipeline})
    assert bool(found) == bool(said)
    assert all(said in problem for problem in found) and len(found) < 2


@pytest.mark.parametrize('pipeline, size', [
    ([dict(type='RandomResizedCrop', scale=32), dict(type='PackInputs')], 32),
    ([dict(type='Resize', scale=(64, 64)), dict(type='CenterCrop',
                                                crop_size=48)], 48),
    ([dict(type='Resize', scale=(64, 32))], None),
    ([dict(type='PackInputs')], None),
])
def test_the_size_that_a_training_sees(pipeline, size):
    dataset = dict(type='CustomDataset', pipeline=pipeline)
    for cfg in (dict(dataset=dataset),
                dict(dataset=dict(type='RepeatDataset', dataset=dataset))):
        assert crop_size(Config(dict(train_dataloader=cfg))) == size
