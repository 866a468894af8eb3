"""The algorithm: losses, gradients, the teacher's place, bad input."""
import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from mmpretrain import get_model
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample

from tests.toys.models import STUDENT, TEACHER
from tests.toys.models import RESNET, classifier, randomize, student

FEATURES = dict(
    teacher=dict(
        type='MMPretrainTeacher',
        backbone=dict(
            type='VisionTransformer', arch=TEACHER, img_size=32,
            patch_size=8),
        allow_random=True),
    logit_loss=None,
    aligned_layers=[(2, 3)])
LABELS = [DataSample().set_gt_label(label) for label in (4, 0, 2)]


def build(cfg):
    """A student and a teacher whose outputs differ clearly."""
    model = MODELS.build(copy.deepcopy(cfg))
    model.init_weights()
    if model.teacher is not None:
        randomize(model.teacher.network)
    return model


def test_losses_by_hand(images):
    """From the host's own parts, which see the images one by one."""
    model = build(
        student(
            logit_loss=dict(
                type='LogitDistillationLoss', temperature=2.0,
                loss_weight=0.7),
            aligned_layers=[(-1, 1.0), (0.25, 0)]))
    losses = model.loss(images, LABELS)
    assert list(losses) == [
        'loss_cls', 'loss_logits', 'loss_align_s3_t5', 'loss_align_s0_t0'
    ]
    tokens = {}
    for side, network in (('s', model), ('t', model.teacher.network)):
        for index, block in enumerate(network.backbone.layers):
            block.register_forward_hook(
                lambda m, args, output, name=f'{side}{index}': tokens.update(
                    {name: output}))
    ours, its = model(images), model.teacher.network(images)
    torch.testing.assert_close(
        losses['loss_cls'], F.cross_entropy(ours, torch.tensor([4, 0, 2])))
    torch.testing.assert_close(
        losses['loss_logits'],
        0.7 * 4 * ((its / 2).softmax(1) * ((its / 2).log_softmax(1) -
                                           (ours / 2).log_softmax(1))).sum() /
        3)
    for pair, name in enumerate(['s3_t5', 's0_t0']):
        projected = model.distill_neck.projectors[pair](tokens[name[:2]])
        assert projected.shape == (3, 1 + 16, 32)  # CLS and all patches
        wanted = (F.normalize(projected, dim=-1) -
                  F.normalize(tokens[name[3:]], dim=-1)).abs().mean()
        torch.testing.assert_close(losses[f'loss_align_{name}'], wanted)
    total, _ = model.parse_losses(losses)
    torch.testing.assert_close(total, sum(losses.values()))


@pytest.mark.parametrize('kind', ['MMPretrainTeacher', 'TimmTeacher'])
def test_features_alone_are_those_of_whole_images(kind, images):
    """The truncated teacher gives what the whole classifier gives."""
    cfg = student(**FEATURES)
    if kind == 'TimmTeacher':
        cfg['teacher'] = dict(
            type=kind,
            model_name='vit_tiny_patch16_224',
            model_kwargs=dict(
                img_size=32, patch_size=8, embed_dim=32, depth=6,
                num_heads=2),
            allow_random=True)
    model = build(cfg)
    losses = model.loss(images, LABELS)
    assert list(losses) == ['loss_cls', 'loss_align_s2_t3']
    network = model.teacher.network
    blocks = network.blocks if kind == 'TimmTeacher' else network.layers
    assert len(blocks) == 4
    if kind == 'TimmTeacher':
        return
    both = build(student(aligned_layers=[(2, 3)]))
    both.load_state_dict(model.state_dict())
    both.teacher.network.backbone.load_state_dict(
        network.state_dict(), strict=False)
    torch.testing.assert_close(
        both.loss(images, LABELS)['loss_align_s2_t3'],
        losses['loss_align_s2_t3'])


def test_without_teacher_it_is_the_hosts_classifier(images):
    model = build(student(teacher=None, logit_loss=None))
    host = MODELS.build(classifier(STUDENT))
    host.load_state_dict(model.state_dict(), strict=True)
    ours, theirs = (m.loss(images, LABELS) for m in (model, host))
    assert list(ours) == ['loss']
    assert torch.equal(ours['loss'], theirs['loss'])


def test_the_control_starts_from_the_same_student():
    """Equal seeds, equal students, with a teacher and without."""
    states = []
    for changes in (dict(teacher=None, logit_loss=None), dict(),
                    dict(aligned_layers=[(0, 0)]), FEATURES):
        cfg = student(**changes)
        cfg['backbone']['init_cfg'] = cfg['head']['init_cfg'] = [
            dict(type='TruncNormal', layer='Linear', std=.02)
        ]
        torch.manual_seed(4)
        model = MODELS.build(cfg)
        model.init_weights()
        states.append(model.state_dict())
    control = states[0]
    for state in states[1:]:
        assert all(torch.equal(state[name], control[name]) for name in control)


@pytest.mark.parametrize('changes', [
    dict(), dict(logit_loss=dict(type='LogitDistillationLoss', mode='hard')),
    dict(aligned_layers=[(1, 1)]), FEATURES])
@pytest.mark.parametrize('weight', [1.0, 0.0])
def test_every_parameter_gets_a_gradient_and_the_teacher_none(
        changes, weight, images):
    """What DDP asks for without ``find_unused_parameters``."""
    cfg = student(**changes)
    cfg['head']['loss'] = dict(type='CrossEntropyLoss', loss_weight=weight)
    model = build(cfg)
    before = model.teacher.fingerprint()
    losses = model.loss(images, LABELS)
    assert (losses['loss_cls'] == 0) == (weight == 0)
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
    assert model.teacher.fingerprint() == before
    assert all(p.grad is None for p in model.teacher.parameters())


def test_the_head_runs_once_and_the_teacher_only_in_training(images):
    model = build(student())
    calls = []
    model.head.register_forward_hook(lambda *args: calls.append('head'))
    model.teacher.network.register_forward_hook(
        lambda *args: calls.append('teacher'))
    model.loss(images, LABELS)
    assert calls == ['head', 'teacher']
    model.train(False)
    model.predict(images)
    model(images)
    assert calls == ['head', 'teacher', 'head', 'head']


def test_other_heads_and_backbones(images):
    hidden = student()
    hidden['backbone'].update(out_type='cls_token', final_norm=True)
    hidden['head'].update(type='VisionTransformerClsHead', hidden_dim=16)
    convolutional = student(**copy.deepcopy(
        {part: RESNET[part] for part in ('backbone', 'neck', 'head')}))
    for cfg in (hidden, convolutional):
        model = build(cfg)
        losses = model.loss(images, LABELS)
        torch.testing.assert_close(
            losses['loss_logits'],
            model.logit_loss(model(images), model.teacher(images)[0]))


@pytest.mark.parametrize('backbone', [
    dict(type='DistilledVisionTransformer', out_type='cls_token'),
    dict(type='DeiT3', out_type='cls_token', final_norm=True),
    dict(type='BEiTViT'),
    dict(type='ViTEVA02'),
    dict(with_cls_token=False),
])
def test_students_of_features(backbone, images):
    cfg = student(aligned_layers=[(1, 2)])
    cfg['backbone'].update(backbone)
    if backbone.get('type') == 'DistilledVisionTransformer':
        cfg['head']['type'] = 'DeiTClsHead'
    model = build(cfg)
    shapes = []
    model.distill_loss.register_forward_hook(
        lambda module, args, output: shapes.append(
            [tuple(arg.shape) for arg in args]))
    model.loss(images, LABELS)['loss_align_s1_t2'].backward()
    has_cls = 'with_cls_token' not in backbone
    assert shapes == [[(3, 16 + has_cls, 32)] * 2]
    for index, block in enumerate(model.backbone.layers):
        touched = [p for p in block.parameters() if p.grad is not None]
        assert bool(touched) == (index <= 1)


def test_the_teacher_sees_the_mixed_images(images):
    """Mixup acts before: both sides get the same batch, labels mixed."""
    cfg = student(
        train_cfg=dict(augments=[dict(type='Mixup', alpha=1.0)]),
        data_preprocessor=dict(
            mean=[127.] * 3, std=[50.] * 3, num_classes=5))
    model = build(cfg)
    seen = []
    model.teacher.network.register_forward_hook(
        lambda module, args, output: seen.append(args[0]))
    model.backbone.register_forward_hook(
        lambda module, args, output: seen.append(args[0]))
    raw = images * 40 + 127
    torch.manual_seed(1)
    np.random.seed(1)
    batch = model.data_preprocessor(
        dict(inputs=list(raw), data_samples=copy.deepcopy(LABELS)), True)
    assert 1 > batch['data_samples'][0].gt_score.max() > 0.1
    losses = model(**batch, mode='loss')
    assert torch.equal(seen[0], seen[1])
    assert not torch.allclose(seen[0], (raw - 127) / 50)
    assert losses.keys() == {'loss_cls', 'loss_logits'}


def test_layer_decay():
    """Projectors learn as fast as the head."""
    model = build(student(aligned_layers=[(1, 1)]))
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        wrapper = build_optim_wrapper(
            model,
            dict(
                constructor='LearningRateDecayOptimWrapperConstructor',
                optimizer=dict(type='AdamW', lr=1.0, weight_decay=0.1),
                paramwise_cfg=dict(layer_decay_rate=0.5)))
    rates = {
        group['param_name']: group['lr']
        for group in wrapper.optimizer.param_groups
    }
    assert rates.keys() == dict(model.named_parameters()).keys()
    assert rates['distill_neck.projectors.0.weight'] == 1
    assert rates['head.fc.weight'] == 1
    assert rates['backbone.layers.3.ln1.weight'] == 0.5
    assert rates['backbone.cls_token'] == 0.5**5


class TestTeacherIsNotPartOfTheModel:

    def test_parameters_and_state_dict(self):
        model = build(student(aligned_layers=[(1, 1)]))
        control = MODELS.build(classifier(STUDENT))
        assert model.state_dict().keys() - control.state_dict().keys() == {
            'distill_neck.projectors.0.weight',
            'distill_neck.projectors.0.bias'
        }
        assert not any(m is model.teacher for m in model.modules())

    def test_deepcopy_shares_it_and_copies_the_student(self, images):
        model = build(student(aligned_layers=[(1, 1)]))
        twin = copy.deepcopy(model)
        assert twin.teacher is model.teacher
        before = model.loss(images, LABELS)
        for parameter in twin.parameters():
            parameter.data.add_(.1)
        ours, theirs = (m.loss(images, LABELS) for m in (model, twin))
        assert ours == before
        for name in ours:
            assert ours[name] != theirs[name], name

    def test_a_trained_student_needs_no_teacher_file(self, images, tmp_path):
        trained = build(student())
        torch.save(dict(state_dict=trained.state_dict(), meta={}),
                   tmp_path / 'student.pth')
        cfg = student()
        cfg['teacher'].update(
            checkpoint=str(tmp_path / 'gone.pth'), allow_random=False)
        model = get_model(
            Config(dict(model=cfg)), str(tmp_path / 'student.pth'))
        trained.train(False)
        torch.testing.assert_close(model(images), trained(images))
        model.predict(images)
        with pytest.raises(FileNotFoundError, match='gone.pth'):
            model.loss(images, LABELS)


def test_a_step_under_bfloat16_autocast(images):
    model = build(student(aligned_layers=[(1, 1)]))
    full = model.loss(images, LABELS)
    with torch.autocast('cpu', torch.bfloat16):
        half = model.loss(images, LABELS)
    for name in full:
        torch.testing.assert_close(
            half[name].float(), full[name], rtol=5e-2, atol=2e-2)
    assert half['loss_logits'].dtype == torch.float32


def test_activation_checkpointing_of_the_backbone_is_refused(images):
    from mmengine.runner.activation_checkpointing import (
        turn_on_activation_checkpointing)
    model = build(student(aligned_layers=[(1, 1)]))
    turn_on_activation_checkpointing(model, ['backbone'])
    with pytest.raises(RuntimeError, match='carry no gradient.*layers.0'):
        model.loss(images.requires_grad_(), LABELS)


MULTI_TASK = dict(
    _delete_=True, type='MultiTaskHead', in_channels=24,
    task_heads=dict(a=dict(type='LinearClsHead', num_classes=5)))


@pytest.mark.parametrize('change, message', [
    (dict(teacher=None), r"logit_loss=.*but teacher=None.*Give a teacher"),
    (dict(teacher=None, logit_loss=None, aligned_layers=[(2, 3)]),
     r'aligned_layers=.*2, 3.*but teacher=None'),
    (dict(logit_loss=None), 'teach nothing.*LogitDistillationLoss.*aligned'),
    (dict(logit_loss=None, aligned_layers=[(2, 3)]),
     "ClassifierTeacher computes logits.*type='MMPretrainTeacher'"),
    (dict(teacher=dict(FEATURES['teacher'], _delete_=True)),
     'a MMPretrainTeacher has no logits.*ClassifierTeacher'),
    (dict(teacher=7), 'teacher=7 is not a dict'),
    (dict(teacher=dict(FEATURES['teacher'], _delete_=True),
          aligned_layers=[(2, 3)]),
     'a MMPretrainTeacher has no logits.*ClassifierTeacher'),
    (dict(head=dict(num_classes=7)),
     'num_classes=7, but the teacher knows 5 classes'),
    (dict(head=MULTI_TASK), 'head: a MultiTaskHead does not compute'),
    (dict(head=dict(type='ArcFaceClsHead')), 'ArcFaceClsHead does not'),
    (dict(head=dict(type='ConformerHead', in_channels=[24, 24])),
     'ConformerHead does not'),
    (dict(head=None), 'head=None, but .* labels as well'),
    (dict(head=None, logit_loss=None, aligned_layers=[(2, 3)],
          teacher=dict(FEATURES['teacher'], _delete_=True)),
     'head=None, but .* labels as well'),
    (dict(teacher=dict(type='ClassiferTeacher')),
     "type='ClassiferTeacher' does not exist. Choose ClassifierTeacher"),
    (dict(aligned_layers=[(1, 3), (3, 3)], backbone=dict(frozen_stages=2)),
     r'student blocks \[1\] are frozen .backbone.frozen_stages'),
    (dict(aligned_layers=[(4, 3)]), 'student has no block 4.*-4 to 3'),
    (dict(aligned_layers=[(2, 6)]), 'teacher has no block 6.*-6 to 5'),
    (dict(aligned_layers=[2, 3]), 'not a list of pairs'),
    (dict(aligned_layers=[(2, 3), (-2, 3)]), 'more than once.*s2_t3'),
    (dict(aligned_layers=[(2, 3)],
          backbone=dict(_delete_=True, **RESNET['backbone'])),
     "type='ResNet' is not supported.*VisionTransformer, .* or HiViT"),
    (dict(aligned_layers=[(2, 3)],
          backbone=dict(_delete_=True, type='MAEViT', arch=STUDENT)),
     "type='MAEViT' is not supported"),
    (dict(teacher=dict(aligned_blocks=[3])), 'aligned_blocks=.3.*Remove it'),
    (dict(logit_loss=dict(temperature=-1)), 'logit_loss: temperature=-1'),
    (dict(logit_loss=dict(_delete_=True, temperature=1)),
     "logit_loss=.*is not a dict with a .type"),
    (dict(teacher=dict(model=dict(backbone=dict(img_size=64))),
          aligned_layers=[(2, 3)]), '8 x 8, the student has 4 x 4'),
])
def test_parts_that_do_not_fit_are_refused(change, message):
    cfg = Config(dict(model=student()))
    cfg.merge_from_dict(dict(model=change))
    with pytest.raises(ValueError, match=message):
        MODELS.build(cfg.model)


def test_unknown_option():
    with pytest.raises(TypeError, match='logits_loss.*logit_loss'):
        MODELS.build(student(logits_loss=None))


def test_normalisation_of_other_channels_is_refused():
    with pytest.raises(ValueError, match='mean.* has 5 values.* 3 channels'):
        MODELS.build(
            student(data_preprocessor=dict(
                type='ClsDataPreprocessor', mean=[1.] * 5, std=[1.] * 5)))
