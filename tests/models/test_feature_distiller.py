"""A student of any kind learns a teacher's features, and nothing else."""
import copy

import pytest
import torch
import torch.nn.functional as F
from mmengine.logging import MMLogger
from mmpretrain.registry import MODELS

from dmae_mm.models.feature_distiller import trained_backbone
from tests.toys.models import NARROW_RESNET, TEACHER, classifier

# 4 x 4 patches of 8 px, 6 blocks, 32 wide.
VIT = dict(
    type='MMPretrainTeacher',
    backbone=dict(
        type='VisionTransformer', arch=TEACHER, img_size=32, patch_size=8),
    allow_random=True)
TIMM = dict(
    type='TimmTeacher',
    model_name='vit_tiny_patch16_224',
    model_kwargs=dict(img_size=64, embed_dim=24, depth=2, num_heads=2),
    allow_random=True)
NORMALISE = dict(mean=[127.5] * 3, std=[127.5] * 3)


def build(backbone=NARROW_RESNET, teacher=VIT, **options):
    if 'teachers' not in options:
        options['teacher'] = teacher
    torch.manual_seed(0)
    model = MODELS.build(
        copy.deepcopy(
            dict(
                type='FeatureDistiller', backbone=backbone,
                data_preprocessor=NORMALISE, **options)))
    model.train()
    return model


def pictures(height=64, width=64, number=2):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(number, 3, height, width, generator=generator)


def step(model, images):
    losses = model.loss(images, [])
    sum(losses.values()).backward()
    return losses


def test_the_loss_by_hand():
    model = build(
        aligned_layers=[(2, 3), (-1, -1)],
        distill_loss=dict(
            type='FeatureAlignmentLoss', criterion='L2', normalize=False,
            loss_weight=2.))
    images = pictures()
    reference = copy.deepcopy(model.backbone)
    losses = step(model, images)
    assert [*losses] == ['loss_align_s2_t3', 'loss_align_s3_t5']
    # The teacher sees the same images in 32 px.
    theirs = model.teacher(images)
    assert torch.equal(theirs[1], model.teacher(F.interpolate(
        images, size=(32, 32), mode='bicubic', antialias=True))[1])
    # 64 px at strides 16 and 32: 4 x 4 as it is, 2 x 2 interpolated.
    for index, (feature_map, loss) in enumerate(
            zip(reference(images), losses.values())):
        on_grid = F.interpolate(
            feature_map, size=(4, 4), mode='bilinear', align_corners=False)
        projector = model.distill_neck.projectors[index]
        ours = projector(on_grid.flatten(2).transpose(1, 2))
        wanted = 2 * (ours - theirs[index][:, 1:]).square().mean()
        torch.testing.assert_close(loss, wanted)
    assert all(p.grad is not None for p in model.parameters())
    widths = [p.in_features for p in model.distill_neck.projectors]
    assert widths == [32, 64]


@pytest.mark.parametrize('backbone, size', [
    (dict(type='MobileNetV3', arch='small_050'), 32),
    (dict(type='ConvNeXt', drop_path_rate=.2, arch=dict(
        depths=[1] * 4, channels=[8, 16, 24, 32])), 64),
    (dict(type='SwinTransformer', window_size=2, drop_path_rate=.2,
          arch=dict(embed_dims=8, depths=[1] * 4, num_heads=[1, 1, 2, 2])),
     64),
    (dict(type='EfficientFormer', arch=dict(
        layers=[1] * 4, embed_dims=[8, 16, 24, 32],
        downsamples=[False, True, True, True], vit_num=1)), 224),
    (dict(type='VisionTransformer', arch=TEACHER, img_size=32,
          patch_size=16), 32),
    (dict(type='TIMMBackbone', model_name='mobilenetv3_small_050'), 64),
    (dict(type='TIMMBackbone', model_name='swin_tiny_patch4_window7_224',
          img_size=64, window_size=2, embed_dim=8, depths=(1, ) * 4,
          num_heads=(1, 1, 2, 2)), 64),
], ids=lambda value: value.get('model_name', value['type'])
    if isinstance(value, dict) else '')
def test_students(backbone, size):
    model = build(backbone)
    loss, = step(model, pictures(size, size)).values()
    assert loss.isfinite()
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad, name
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    model.train(False)
    feature, = model.extract_feat(pictures(size, size))
    assert feature.shape[1] in model.maps.widths.values()


def test_the_teacher_is_no_part_of_the_model():
    model = build(aligned_layers=[(-1, -1)])
    assert not any('teacher' in name for name in model.state_dict())
    assert {name.split('.')[0] for name in model.state_dict()} == {
        'backbone', 'distill_neck'}
    copied = copy.deepcopy(model)
    assert copied.teacher is model.teacher
    before = model.teacher.fingerprint()
    step(model, pictures())
    assert model.teacher.fingerprint() == before
    # As a student of the same seed without a teacher starts.
    torch.manual_seed(0)
    for name, tensor in MODELS.build(dict(NARROW_RESNET)).state_dict().items():
        assert torch.equal(tensor, copied.state_dict()[f'backbone.{name}'])


def test_what_lies_behind_is_frozen_and_said(monkeypatch):
    said = []
    logger = MMLogger.get_current_instance()
    monkeypatch.setattr(logger, 'log', lambda level, text: said.append(text))
    model = build(aligned_layers=[(1, 0)])
    line, = [text for text in said if 'frozen' in text]
    assert '30 of 60 parameters' in line and 'Align the last stage' in line
    step(model, pictures())
    for name, parameter in model.backbone.named_parameters():
        behind = name.startswith(('layer3', 'layer4'))
        assert parameter.requires_grad != behind
        assert (parameter.grad is None) == behind


@pytest.mark.parametrize('teacher, size, grid', [
    (TIMM, (64, 64), (4, 4)), (TIMM, (64, 48), (4, 3)),
    (TIMM, (32, 128), (1, 4)), (VIT, (224, 160), (4, 3)),
    (TIMM, (65, 64), (4, 4))])
def test_the_teachers_grid_follows_the_images_aspect(teacher, size, grid):
    model = build(teacher=teacher)
    assert model.teacher.grid_of(*size) == grid
    images = pictures(*size)
    features, = model.teacher(images)
    assert features.shape[1] == 1 + grid[0] * grid[1]
    # Of its own size, each patch sees what it would see by itself.
    side = 16 if teacher is TIMM else 8
    resized = F.interpolate(
        images, size=[side * n for n in grid], mode='bicubic',
        antialias=True) if size != tuple(side * n for n in grid) else images
    torch.testing.assert_close(features, model.teacher(resized)[0])
    assert step(model, images)


def test_a_teacher_that_does_not_resample_is_refused():
    eva = dict(VIT, backbone=dict(
        type='ViTEVA02', img_size=32, patch_size=8, arch=dict(
            embed_dims=32, num_layers=2, num_heads=2,
            feedforward_channels=64)))
    model = build(teacher=eva)
    step(model, pictures(64, 64))
    with pytest.raises(ValueError, match='64 x 48 px, those of the teacher '
                       '32 x 32, in 4 x 4 patches.*does not resample'):
        step(model, pictures(64, 48))


def test_cls_and_the_mean_of_the_map():
    model = build(
        align_cls=True,
        distill_loss=dict(
            type='FeatureAlignmentLoss', criterion='L1', normalize=False))
    images = pictures(32, 32)
    reference = copy.deepcopy(model.backbone)
    loss, = step(model, images).values()
    feature_map, = reference(images)  # 1 x 1
    token = model.distill_neck.projectors[0](feature_map.flatten(1))
    theirs, = model.teacher(images)  # (2, 1 + 16, 32)
    torch.testing.assert_close(loss, F.l1_loss(
        token.unsqueeze(1).expand_as(theirs), theirs))


def test_relations_of_tokens():
    model = build(
        distill_loss=dict(type='TokenRelationLoss'), teacher=TIMM)
    assert not hasattr(model, 'distill_neck')
    assert step(model, pictures())['loss_align_s3_t1'] > 0
    assert all(p.grad is not None for p in model.backbone.parameters())


def test_targets_are_standardised():
    model = build(target=dict(type='Standardize', momentum=1.), align_cls=True)
    step(model, pictures())
    theirs, = model.teacher(pictures())
    mean = model.distill_target[0].mean  # of CLS and of patches
    torch.testing.assert_close(mean[1], theirs[:, 1:].mean(dim=(0, 1)))
    torch.testing.assert_close(mean[0], theirs[:, 0].mean(dim=0))


def test_several_teachers_with_grids_of_their_own():
    model = build(
        teachers=dict(
            vit=dict(teacher=VIT, aligned_layers=[(-2, 0.5)]),
            timm=dict(teacher=TIMM)))
    assert [*step(model, pictures())] == ['loss_align_timm_s3_t1',
                                          'loss_align_vit_s2_t2']
    assert model.teacher is None and [*model.teachers] == ['timm', 'vit']


def test_teacher_dropping_takes_the_mean_over_what_is_kept():
    """With probability 0 all are kept: half of the sum of two teachers."""
    totals = []
    for dropping in (dict(), dict(teacher_dropping=0.)):
        torch.manual_seed(0)
        model = build(
            teachers=dict(vit=dict(teacher=VIT), timm=dict(teacher=TIMM)),
            **dropping)
        model.train()
        losses = model.loss(pictures(), None)
        totals.append(sum(losses.values()))
    torch.testing.assert_close(totals[1], totals[0] / 2)


def test_masked_regions():
    model = build(mask_ratio=0.75)
    images = torch.ones(8, 3, 64, 64)
    state = torch.get_rng_state()
    masked = model.masked(images)
    cells = masked.view(8, 3, 4, 16, 4, 16)  # patches of the teacher
    assert torch.equal(cells.amax(dim=(1, 3, 5)), cells.amin(dim=(1, 3, 5)))
    assert cells[:, 0, :, 0, :, 0].sum(dim=(1, 2)).tolist() == [4] * 8
    assert len({str(image[0]) for image in masked}) > 1  # each its own
    torch.set_rng_state(state)
    torch.rand(8, 16)  # all that is drawn
    after = torch.get_rng_state()
    torch.set_rng_state(state)
    model.masked(images)
    assert torch.equal(after, torch.get_rng_state())
    # The teacher sees all; so without mask only the student differs.
    seen = []
    model.teacher.image_matcher.register_forward_hook(
        lambda module, args, output: seen.append(args[0]))
    step(model, images)
    assert torch.equal(seen[0], images)
    plain = build()
    assert plain.masked(images) is images


@pytest.mark.parametrize('options, message', [
    (dict(mask_ratio=1.0), 'mask_ratio=1.0 is not a number from 0'),
    (dict(mask_ratio=None), 'mask_ratio=None'),
    (dict(teacher=None), 'teacher=None'),
    (dict(aligned_layers=[(4, 0)]), 'the student has no stage 4'),
    (dict(aligned_layers=[(0, 6)]), 'the teacher has no block 6'),
    (dict(aligned_layers=[3]), 'not a list of pairs'),
    (dict(distill_loss=dict(type='QKVRelationLoss')),
     'QKVRelationLoss compares .*which the student does not have'),
    (dict(distill_loss=dict(type='TokenRelationLoss'), align_cls=True),
     'TokenRelationLoss compares patches alone'),
    (dict(align_cls=True, teacher=dict(VIT, backbone=dict(
        VIT['backbone'], with_cls_token=False, out_type='raw'))),
     'has no CLS token'),
    (dict(distill_neck=dict(type='FeatureProjectionNeck',
                            projector='identity')), 'equal widths'),
    (dict(teachers=dict(a=dict(teacher=VIT, aligned_layers=[(9, 0)]))),
     'the student has no stage 9'),
    (dict(teachers=dict(a=dict(teacher=VIT, mask_ratio=.5))),
     "'mask_ratio' is no option"),
    (dict(teacher=dict(type='ClassifierTeacher', allow_random=True,
                       model=classifier())),
     'ClassifierTeacher has no features of visible patches'),
])
def test_what_cannot_work_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)


def test_unknown_options_are_refused():
    with pytest.raises(TypeError, match='no option mask=0.5.*mask_ratio'):
        build(mask=0.5)


def test_batch_norm_with_one_image():
    model = build()
    with pytest.raises(ValueError, match='one image.*bn1.*drop_last=True'):
        model.loss(pictures(number=1), [])
    frozen = build(dict(NARROW_RESNET, norm_eval=True))
    assert step(frozen, pictures(number=1))
    without = build(
        dict(NARROW_RESNET, norm_cfg=dict(type='GN', num_groups=4)))
    assert step(without, pictures(number=1))


def test_synchronised_batch_norm_without_processes():
    model = build(dict(NARROW_RESNET, norm_cfg=dict(type='SyncBN')))
    plain = build()
    assert {type(m).__name__ for m in model.modules()} & {'SyncBatchNorm'}
    assert step(model, pictures()) == step(plain, pictures())


def test_frozen_stages_learn_nothing():
    model = build(dict(NARROW_RESNET, frozen_stages=2))
    step(model, pictures())
    for name, parameter in model.backbone.named_parameters():
        frozen = name.startswith(('conv1', 'bn1', 'layer1', 'layer2'))
        assert (parameter.grad is None) == frozen, name


def test_it_compiles_in_one_graph():
    model = build(dict(type='AlexNet'), mask_ratio=.5, align_cls=True)
    images = pictures()
    compiled = torch.compile(model.loss, backend='eager', fullgraph=True)
    state = torch.get_rng_state()
    wanted = model.loss(images, [])['loss_align_s0_t5']
    torch.set_rng_state(state)
    torch.testing.assert_close(
        compiled(images, [])['loss_align_s0_t5'], wanted)


def test_the_backbone_of_a_config():
    cfg = dict(type='FeatureDistiller', backbone=dict(NARROW_RESNET),
               teacher=VIT, aligned_layers=[(1, 0), (2, 0)])
    assert trained_backbone(cfg)['out_indices'] == [1, 2]
    assert trained_backbone(dict(cfg, type='DMAE')) == NARROW_RESNET
    # What evaluates a student needs no teacher.
    alone = build(teacher=None, aligned_layers=[])
    assert alone.extract_feat(pictures())[0].shape == (2, 64, 2, 2)
