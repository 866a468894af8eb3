"""The table of jobs on photographs."""
import json

import pytest
import torch
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS

from studies import photograph_jobs as table
from studies.photograph_jobs import (DEFAULTS, EPOCHS, OBJECTIVES,
                                     PhotographJob, all_jobs, choice_jobs,
                                     chosen, load, recipe_options)
from tests.toys.photographs import setting
from tests.toys.recipes import differences

EXTERNAL = dict(
    type='TimmTeacher',
    model_name='vit_small_patch14_dinov2.lvd142m',
    pretrained=True)
# None of them is that of the configs.
CHOICES = dict(
    lr=dict(mae=3e-3, dmae=5e-3),
    weights={name: 7. for name in OBJECTIVES})
# GFLOP of an image without counting: what costs more than DMAE.
COSTS = {'amd': 2., 'g2sd': 4 / 3, 'mae-compute': 0.5}


def fake_cost(job, where):
    if job.config == table.MAE and 'model.teachers' not in job.options:
        return COSTS['mae-compute']
    loss = job.options.get('model.distill_loss.type')
    return COSTS['g2sd'] if loss == 'MaskedFeatureLoss' else (
        COSTS['amd'] if 'model.generator' in job.options else 1.)


@pytest.fixture(scope='module')
def jobs():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table, 'cost_of', fake_cost)
        where = setting(external=EXTERNAL, choices=CHOICES)
        return {job.name: job for job in all_jobs(where)}


def test_jobs_come_behind_those_that_they_need(jobs):
    names = list(jobs)
    for index, job in enumerate(jobs.values()):
        assert set(job.needs) <= set(names[:index])
        assert job.group and job.title
    assert jobs['mae'].needs == []
    assert jobs['dmae'].needs == jobs['two'].needs == ['teacher']
    assert jobs['labels10_scratch+logits'].needs == [
        'teacher-finetuned-10pct']
    assert {job.name for job in jobs.values() if job.once} == {
        'teacher', 'teacher-finetuned', 'teacher-finetuned-10pct',
        'teacher-finetuned-1pct'}


def test_equal_compute(jobs):
    """At half of the cost twice the epochs; what costs the same is one job."""
    assert jobs['mae-compute'].epochs == 2 * EPOCHS
    assert jobs['amd-compute'].epochs == EPOCHS // 2
    assert jobs['g2sd-compute'].epochs == round(EPOCHS * 3 / 4)
    assert 'l2-compute' not in jobs and 'l2' in jobs


def test_counted():
    """DMAE's teacher: an embedding and 6 blocks of 192 on 17 tokens."""
    found = [
        table.gflop_per_image(load(job, 0, setting()))
        for job in (PhotographJob('mae', table.MAE,
                                  table.pretraining('mae', setting())),
                    PhotographJob('dmae', table.DMAE, table.dmae(setting())))
    ]
    teacher = 6 * 2 * (12 * 17 * 192**2 + 2 * 17**2 * 192) + (
        2 * 64 * 48 * 192)
    projector = 3 * 2 * 17 * 96 * 192
    assert found[1] - found[0] == pytest.approx(
        (teacher + projector) / 1e9, rel=0.01)


# By hand: the fixture of a module cannot say them.
NAMES = [
    'teacher', 'teacher-finetuned', 'teacher-finetuned-10pct',
    'teacher-finetuned-1pct', 'mae', 'dmae', 'dmae-weight1', 'mae-compute',
    'mae-mask90', 'dmae-mask90', 'mae-mask95', 'dmae-mask95', 'mae-mask98',
    'dmae-mask98', 'dmae-depth25', 'dmae-depth50', 'dmae-depth100',
    'dmae-finetuned', 'dmae-finetuned-10pct', 'dmae-external', 'l2', 'cosine',
    'smooth-l1', 'layer', 'standardised', 'phi-s', 'tokens', 'qkv', 'amd',
    'amd-compute', 'see-half', 'g2sd', 'g2sd-compute', 'two', 'timm-control',
    'timm', 'swin-control', 'swin', 'resnet-control', 'resnet',
    'mobilenet-control', 'mobilenet', 'dmae-light-decoder', 'dmae-third',
    'dmae-bfloat16', 'dmae-teacher-bfloat16', 'dmae-teacher-half',
    *(f'labels{percent}_{name}' for percent in (100, 10, 1)
      for name in ('scratch', 'scratch+logits', 'mae', 'dmae',
                   'dmae-finetuned')
      if (percent, name) != (1, 'dmae-finetuned')),
    *(f'{kind}-length{epochs}' for epochs in (1, 2, 8, 16)
      for kind in ('mae', 'dmae'))
]


def test_all_are_named_here(jobs):
    assert list(jobs) == NAMES


@pytest.mark.parametrize('name', NAMES)
def test_job(name, jobs):
    """Its model can be built, and each of its options changes something."""
    job, where = jobs[name], setting(external=EXTERNAL)
    cfg = load(job, 0, where)
    init_default_scope('mmpretrain')
    with torch.device('meta'):
        model = dict(cfg.model)
        model.pop('data_preprocessor', None)
        if any(kind in name for kind in ('swin', 'resnet', 'mobilenet')):
            with torch.device('cpu'):  # asks tensors for their values
                MODELS.build(model)
        else:
            MODELS.build(model)
    assert cfg.train_cfg.max_epochs == job.epochs
    assert [step.type for step in cfg.train_dataloader.dataset.pipeline
            ].count('RandomFlip') == 1
    json.dumps(cfg.to_dict())
    for option in job.options:
        if option.endswith('_delete_'):
            continue
        options = {
            key: value
            for key, value in job.options.items() if key != option
        }
        without = load(
            PhotographJob(job.name, job.config, options, epochs=job.epochs,
                          once=job.once), 0, where)
        assert differences(cfg.to_dict(), without.to_dict()), option


@pytest.mark.parametrize('name, other, wanted', [
    ('dmae-weight1', 'dmae', ['model.distill_loss.loss_weight']),
    ('dmae-depth100', 'dmae', ['model.aligned_layers']),
    ('dmae-mask98', 'dmae', ['model.backbone.mask_ratio']),
    ('dmae-finetuned', 'dmae', ['model.teacher.checkpoint']),
    ('dmae-bfloat16', 'dmae', ['optim_wrapper.type']),
    ('dmae', 'mae', ['model.aligned_layers', 'model.teacher',
                     'optim_wrapper.optimizer.lr']),
    ('cosine', 'dmae', ['model.distill_loss.criterion']),
    ('timm', 'timm-control', [
        'model.aligned_layers', 'model.distill_loss.loss_weight',
        'model.teacher', 'optim_wrapper.optimizer.lr'
    ]),
    ('labels10_dmae', 'labels10_mae',
     ['model.backbone.init_cfg.checkpoint']),
])
def test_what_is_compared_differs_in_one_thing(name, other, wanted, jobs):
    ours, theirs = (load(jobs[job], 0, setting()).to_dict()
                    for job in (name, other))
    found = differences(ours, theirs)
    assert [
        path for path in found
        # Without a teacher, the loss is there and does nothing.
        if path not in ('work_dir', *(
            ['model.distill_loss.loss_weight'] * (other == 'mae')))
    ] == wanted


def test_options_of_recipes():
    assert recipe_options('vit-s_dmae-l2') == {
        'model.distill_loss.criterion': 'L2'}
    found = recipe_options('vit-s_dmae-amd')
    assert found['model.teacher_mask_ratio'] == 0.75
    assert found['model.backbone.mask_ratio'] == 0.9
    assert found['model.distill_neck.projector'] == 'linear_no_bias'
    assert not any(key.startswith('model.teacher.') for key in found)
    found = recipe_options('vit-s_dmae-g2sd')
    assert found['model.teacher.type'] == 'MAETeacher'
    assert found['model.distill_loss._delete_'] is True
    assert found['model.head'] is None


def test_other_numbers_of_classes_and_images(monkeypatch):
    monkeypatch.setattr(table, 'cost_of', fake_cost)
    where = setting(num_classes=3, num_train=600)
    found = {job.name: job for job in all_jobs(where)}
    cfg = load(found['labels10_scratch+logits'], 0, where)
    assert cfg.model.head.num_classes == 3
    assert cfg.model.teacher.model.head.num_classes == 3
    assert cfg.data_preprocessor.num_classes == 3
    assert load(found['phi-s'], 0, where).model.target.num_images == 600
    assert 'dmae-external' not in found
    assert found['two'].needs == ['teacher', 'teacher-finetuned-10pct']


def test_the_best_of_the_grid():
    jobs = choice_jobs(setting())
    assert len({job.name for job in jobs}) == len(jobs) == 6 + 3 * (
        len(OBJECTIVES) - 1)
    results = {job.name: dict(knn=20., linear=30.) for job in jobs}
    results['mae lr 0.001'] = dict(knn=19., linear=31.5)
    results['l1 weight 30'] = dict(knn=25., linear=30.)
    results['cosine weight 0.3'] = dict(knn=20., linear=30.1)
    found = chosen(jobs, results)
    assert found.keys() == DEFAULTS.keys()
    assert found['lr']['mae'] == 1e-3
    assert found['weights']['l1'] == found['weights']['two'] == 30
    assert found['weights']['cosine'] == 0.3
    where = setting(choices=found)
    assert load(
        PhotographJob('x', table.DMAE, table.dmae(where)), 0,
        where).model.distill_loss.loss_weight == 30
