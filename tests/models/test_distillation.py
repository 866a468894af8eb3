"""What a distillation hands to its teacher and to its loss, and refuses."""
import copy

import pytest
import torch
import torch.nn as nn
from mmengine.runner.activation_checkpointing import (
    turn_on_activation_checkpointing)
from mmpretrain.registry import MODELS

from dmae_mm.models.losses import FeatureLoss
from tests.toys.models import (HIVIT_STUDENT, HIVIT_TEACHER, TOY_MODEL,
                               classifier, randomize)

MAE_TEACHER = dict(
    type='MAETeacher',
    backbone=TOY_MODEL['teacher']['backbone'],
    neck=dict(
        type='MAEPretrainDecoder',
        decoder_embed_dim=24,
        decoder_depth=3,
        decoder_num_heads=2),
    allow_random=True)
TIMM_REGISTERS = dict(
    type='TimmTeacher',
    model_name='vit_small_patch14_reg4_dinov2.lvd142m',
    model_kwargs=dict(
        embed_dim=32, depth=6, num_heads=2, img_size=64, patch_size=16),
    allow_random=True)
QKV = dict(type='QKVRelationLoss')
TOKENS = dict(type='TokenRelationLoss')
G2SD = dict(
    teacher=MAE_TEACHER,
    aligned_layers=[(1, 1)],
    distill_loss=dict(type='MaskedFeatureLoss', positions='masked'))
AMD = dict(
    teacher_mask_ratio=0.5,
    generator=dict(type='FeatureGenerationNeck', num_heads=2))


def build(**change):
    torch.manual_seed(0)
    return MODELS.build(copy.deepcopy(TOY_MODEL | change)).train()


def refuse(match, **change):
    with pytest.raises(ValueError, match=match):
        build(**change)


class Recording(FeatureLoss):
    """Keeps what it is asked to compare."""

    def forward(self, student, teacher, has_cls=None, mask=None):
        self.seen = dict(student=student, teacher=teacher, has_cls=has_cls,
                         mask=mask)
        return student.mean()


class TwoSides(nn.Module):
    """A loss of a user's own, which asks for nothing else."""

    def forward(self, student, teacher):
        return (student - teacher).square().mean()


def masked_by(model):
    masks = []
    model.backbone.register_forward_hook(
        lambda module, args, output: masks.append(output[1:]))
    return masks


def test_a_loss_gets_what_it_names(images):
    model = build(distill_loss=dict(type=Recording))
    masks = masked_by(model)
    model.loss(images, None)
    seen = model.distill_loss.seen
    assert seen['has_cls'] is True
    assert torch.equal(seen['mask'].float(), masks[0][0])
    model = build(distill_loss=dict(type=TwoSides))
    assert 'loss_align_s2_t3' in model.loss(images, None)


def test_cls_is_not_there_without_one_on_both_sides(images):
    model = build(backbone=HIVIT_STUDENT, distill_loss=dict(type=Recording))
    model.loss(images, None)
    assert model.distill_loss.seen['has_cls'] is False
    refuse(
        'cls_weight=0.5 weighs CLS, which the student does not have',
        backbone=HIVIT_STUDENT,
        distill_loss=dict(type='FeatureAlignmentLoss', cls_weight=0.5))
    refuse(
        'cls_weight=0.5 weighs CLS, which the teacher does not have',
        teacher=dict(
            type='MMPretrainTeacher',
            backbone=dict(type='HiViT', **HIVIT_TEACHER),
            allow_random=True),
        distill_loss=dict(type='FeatureAlignmentLoss', cls_weight=0.5))


@pytest.mark.parametrize('loss, prefix', [(QKV, 1), (TOKENS, 0)])
@pytest.mark.parametrize('teacher', [TOY_MODEL['teacher'], TIMM_REGISTERS])
@pytest.mark.parametrize('ratio, seen', [(None, 4), (0.5, 8), (0, 16)])
def test_relations_are_of_the_tokens_that_both_see(loss, prefix, teacher,
                                                   ratio, seen, images):
    """CLS and the visible patches; registers never."""
    model = build(distill_loss=loss, teacher=teacher, teacher_mask_ratio=ratio)
    given, features = [], []
    model.distill_loss.register_forward_hook(
        lambda module, args, output: given.append(args))
    model.teacher.register_forward_hook(
        lambda module, args, output: features.append(output[0]))
    losses = model.loss(images, None)
    student, its = given[0]
    tripled = 3 if loss is QKV else 1
    assert student.shape == (3, prefix + 4, 24 * tripled)
    assert its.shape == (3, prefix + 4, 32 * tripled)
    num_prefix = model.teacher.num_prefix_tokens
    assert features[0].shape == (3, num_prefix + seen, 32 * tripled)
    assert torch.equal(its[:, prefix:],
                       features[0][:, num_prefix:num_prefix + 4])
    if prefix:
        assert torch.equal(its[:, 0], features[0][:, 0])
    losses['loss_align_s2_t3'].backward()
    layer = model.backbone.layers[2]
    assert layer.attn.qkv.weight.grad.abs().sum() > 0
    assert (layer.attn.proj.weight.grad is None) == (loss is QKV)


def test_relations_of_all_patches(images):
    """The student sees them in another order; relations do not mind."""
    model = build(
        backbone=dict(TOY_MODEL['backbone'], mask_ratio=0.), neck=None,
        head=None, aligned_layers=[(-1, 3)], distill_loss=QKV)
    torch.manual_seed(1)
    first = model.loss(images, None)['loss_align_s3_t3']
    second = model.loss(images, None)['loss_align_s3_t3']
    torch.testing.assert_close(first, second)
    whole, = model.teacher(images)
    student = []
    model.backbone.layers[-1].attn.qkv.register_forward_hook(
        lambda module, args, output: student.append(output))
    model.backbone(images, None)
    torch.testing.assert_close(model.distill_loss(student[0], whole), first)


@pytest.mark.parametrize('ratio, seen', [(0.75, 4), (0.6, 6), (0.5, 8),
                                         (0, 16), (0.0, 16)])
def test_a_teacher_that_sees_more(ratio, seen, images):
    """The student's patches first, then further ones of its own order."""
    model = build(
        teacher_mask_ratio=ratio, distill_loss=dict(type=Recording))
    randomize(model.teacher.network)
    masks, calls = masked_by(model), []
    model.teacher.register_forward_hook(
        lambda module, args, output: calls.append((args[1], output)))
    model.loss(images, None)
    (mask, ids_restore), (ids_seen, features) = masks[0], calls[0]
    assert ids_seen.shape == (3, seen)
    for image in range(3):
        order = sorted(range(16), key=lambda p: ids_restore[image, p].item())
        assert ids_seen[image].tolist() == order[:seen]
        assert {p for p in range(16) if not mask[image, p]} == set(
            ids_seen[image, :4].tolist())
    again, = model.teacher(images, ids_seen)
    assert torch.equal(features[0], again)
    assert torch.equal(model.distill_loss.seen['teacher'], again[:, :5])
    # What it sees beside changes what it says of the shared ones.
    alone, = model.teacher(images, ids_seen[:, :4])
    assert torch.allclose(again[:, :5], alone) == (seen == 4)


@pytest.mark.parametrize('ratio', [0.76, 0.9, 1, -0.1, True, '0.5', float(
    'nan')])
def test_a_teacher_must_see_what_the_student_sees(ratio):
    refuse('mask_ratio=.* is not a number from 0 .*0.75', teacher_mask_ratio=
           ratio)


def test_masked_features_get_mae_s_mask(images):
    """Only the patches that neither saw; the teacher's decoder fills in."""
    model = build(**G2SD)
    masks, given, calls = masked_by(model), [], []
    model.distill_loss.register_forward_hook(
        lambda module, args, kwargs, output: given.append((args, kwargs)),
        with_kwargs=True)
    model.teacher.register_forward_hook(
        lambda module, args, output: calls.append((args, output)))
    loss = model.loss(images, None)['loss_align_s1_t1']
    (ours, its), kwargs = given[0]
    assert ours.shape == its.shape == (3, 17, 24)
    assert torch.equal(kwargs['mask'].float(), masks[0][0])
    assert torch.equal(its, calls[0][1][0])
    assert torch.equal(calls[0][0][2], masks[0][1])
    target = nn.functional.layer_norm(its, (24, ), eps=1e-6)
    per_token = nn.functional.smooth_l1_loss(
        ours, target, reduction='none', beta=2.0).mean(-1)[:, 1:]
    torch.testing.assert_close(
        loss, per_token[masks[0][0].bool()].mean())


def test_decoder_of_a_student_without_cls(images):
    """A token of zeros stands in its place, and is not aligned."""
    model = build(backbone=HIVIT_STUDENT, **G2SD)
    given = []
    model.distill_loss.register_forward_hook(
        lambda module, args, output: given.append(args))
    model.loss(images, None)['loss_align_s1_t1'].backward()
    assert [tuple(side.shape) for side in given[0]] == [(3, 16, 24)] * 2


def test_targets_are_of_each_pair(images):
    """Used first, and updated in training mode alone."""
    model = build(
        aligned_layers=[(1, 1), (2, 3)],
        teacher_mask_ratio=0.5,
        target=dict(type='Standardize', momentum=1.0),
        distill_loss=dict(type='FeatureAlignmentLoss', normalize=False))
    randomize(model.teacher.network)
    features, given = [], []
    model.teacher.register_forward_hook(
        lambda module, args, output: features.append(output))
    model.distill_loss.register_forward_hook(
        lambda module, args, output: given.append(args[1]))
    assert {name for name in model.state_dict() if 'target' in name} == {
        f'distill_target.{pair}.{name}' for pair in (0, 1)
        for name in ('mean', 'std', 'num_updates')}
    model.loss(images, None)
    for pair in (0, 1):  # (t - 0) / (1 + 1e-6)
        shared = features[0][pair][:, :5]
        torch.testing.assert_close(given[pair], shared, rtol=1e-5, atol=1e-6)
        target = model.distill_target[pair]
        torch.testing.assert_close(
            target.mean, torch.stack([shared[:, 0].mean(0),
                                      shared[:, 1:].flatten(0, 1).mean(0)]))
    before = copy.deepcopy(model.distill_target.state_dict())
    model.eval()
    with torch.no_grad():
        model.loss(images, None)
    after = model.distill_target.state_dict()
    assert all(torch.equal(after[name], its) for name, its in before.items())


def test_generator_sees_what_the_student_saw(images):
    """Tokens that only the teacher saw are predicted from the projected."""
    model = build(**AMD)
    randomize(model.teacher.network)
    calls, given, features = [], [], []
    model.distill_generator[0].register_forward_hook(
        lambda module, args, output: calls.append((args, output)))
    model.distill_loss.register_forward_hook(
        lambda module, args, output: given.append(args))
    model.teacher.register_forward_hook(
        lambda module, args, output: features.append((args[1], output[0])))
    losses = model.loss(images, None)
    assert list(losses) == [
        'loss_recon', 'loss_align_s2_t3', 'loss_generate_s2_t3']
    (projected, keep, extra), predicted = calls[0]
    ids_seen, tokens = features[0]
    assert torch.equal(torch.cat([keep, extra], 1), ids_seen)
    assert torch.equal(projected, given[0][0])
    assert torch.equal(tokens, torch.cat([given[0][1], given[1][1]], 1))
    assert torch.equal(given[1][0], predicted)
    assert predicted.shape == (3, 4, 32)
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters()
               if p.requires_grad)


@pytest.mark.parametrize('match, change', [
    # A loss and a side that do not fit.
    ("QKVRelationLoss compares the outputs of qkv layers, but a teacher of "
     "type='MAETeacher' gives the outputs of a decoder's blocks. Choose an "
     'MMPretrainTeacher or a TimmTeacher',
     dict(teacher=MAE_TEACHER, distill_loss=QKV)),
    ("FeatureAlignmentLoss compares the outputs of blocks, but .*MAETeacher",
     dict(teacher=MAE_TEACHER)),
    ("MaskedFeatureLoss compares .*, but a teacher of type="
     "'MMPretrainTeacher' gives the outputs of blocks and the outputs of qkv "
     'layers. Choose an MAETeacher',
     dict(distill_loss=dict(type='MaskedFeatureLoss'),
          aligned_layers=[(1, 1)])),
    ("teacher.backbone: type='BEiTViT'",
     dict(distill_loss=QKV,
          teacher=dict(
              TOY_MODEL['teacher'],
              backbone=dict(TOY_MODEL['teacher']['backbone'],
                            type='BEiTViT')))),
    ('num_heads=3 does not divide .*student, 24, .*teacher, 32',
     dict(distill_loss=dict(QKV, num_heads=3))),
    ("num_heads=16 does not divide .*student, 24",
     dict(distill_loss=QKV,
          teacher=dict(
              TOY_MODEL['teacher'],
              backbone=dict(
                  TOY_MODEL['teacher']['backbone'],
                  arch=dict(TOY_MODEL['teacher']['backbone']['arch'],
                            num_heads=16))))),
    ("sees all patches. Set mask_ratio in backbone, or positions='all'",
     dict(G2SD, backbone=dict(TOY_MODEL['backbone'], mask_ratio=0.))),
    ('a single one of each image. Lower mask_ratio',
     dict(distill_loss=TOKENS,
          backbone=dict(TOY_MODEL['backbone'], mask_ratio=0.93))),
    # Options that would be ignored.
    ('distill_neck=.*TokenRelationLoss.*no projector',
     dict(distill_loss=TOKENS,
          distill_neck=dict(type='FeatureProjectionNeck'))),
    ('target=.*QKVRelationLoss compares queries.*Set target=None',
     dict(distill_loss=QKV, target=dict(type='Standardize'))),
    ('target: embed_dims=3 must not be given',
     dict(target=dict(type='Standardize', embed_dims=3))),
    ('generator=.*sees the same as the student. Set teacher_mask_ratio',
     dict(generator=AMD['generator'])),
    ('generator=.*sees the same as the student',
     dict(AMD, teacher_mask_ratio=0.75)),
    ('generator=.*TokenRelationLoss does not compare such',
     dict(AMD, distill_loss=TOKENS)),
    ('generator=.*cls_weight=0.5 cannot weigh CLS there',
     dict(AMD, distill_loss=dict(type='FeatureAlignmentLoss',
                                 cls_weight=0.5))),
    # Named by the teacher, of several.
    ('teachers.a: distill_neck=.*no projector',
     dict(teacher=None, aligned_layers=[], teachers=dict(a=dict(
         teacher=TOY_MODEL['teacher'], aligned_layers=[(0, 0)],
         distill_loss=TOKENS,
         distill_neck=dict(type='FeatureProjectionNeck'))))),
])
def test_what_does_not_fit_is_refused(match, change):
    refuse(match, **change)


@pytest.mark.parametrize('checkpointed, refused', [('backbone.layers.0', 0),
                                                   ('backbone.layers.2', 1)])
def test_activation_checkpointing_of_compared_qkv(checkpointed, refused,
                                                  images):
    """A recomputed block shows no gradient from its inside."""
    plain, model = build(distill_loss=QKV), build(distill_loss=QKV)
    turn_on_activation_checkpointing(model, [checkpointed])
    images.requires_grad_()  # reentrant checkpointing asks for it
    if refused:
        with pytest.raises(RuntimeError, match='none whose qkv layer is'):
            model.loss(images, None)
        return
    for each in (plain, model):
        torch.manual_seed(0)
        each.loss(images, None)['loss_align_s2_t3'].backward()
    for p, q in zip(plain.parameters(), model.parameters()):
        torch.testing.assert_close(q.grad, p.grad)


def test_a_classifier_has_no_blocks_that_make_qkv_apart():
    """BEiT as a student; and a teacher of logits."""
    beit = dict(type='BEiTViT', img_size=32, patch_size=8, out_type=
                'avg_featmap', final_norm=False)
    model = classifier(TOY_MODEL['backbone']['arch'], backbone=beit) | dict(
        type='DistilledImageClassifier',
        teacher=TOY_MODEL['teacher'],
        aligned_layers=[(2, 3)],
        distill_loss=QKV)
    with pytest.raises(ValueError, match='qkv layers, which the student does '
                       'not have. Choose a backbone'):
        MODELS.build(copy.deepcopy(model))
    model['backbone'].update(bias=True)
    MODELS.build(copy.deepcopy(model))
    model.update(
        logit_loss=dict(type='LogitDistillationLoss'),
        teacher=dict(type='ClassifierTeacher', model=classifier(),
                     allow_random=True))
    with pytest.raises(ValueError, match="type='ClassifierTeacher' gives the "
                       'outputs of blocks. Choose an MMPretrainTeacher'):
        MODELS.build(copy.deepcopy(model))
