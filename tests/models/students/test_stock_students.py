"""SimMIM's and SparK's students: their own loss, and a teacher beside it."""
import copy

import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmpretrain.models.utils import SparseHelper
from mmpretrain.registry import MODELS

from dmae_mm.models.region_maps import patches_of_units
from tests.toys.masked_students import (STUDENTS, batch, build,
                                        masked_student, stock)
from tests.toys.models import HIVIT_TEACHER

each_student = pytest.mark.parametrize('name', STUDENTS)
SPARK = [name for name in STUDENTS if name != 'SimMIM']


def step(model, images, samples, seed=0):
    torch.manual_seed(seed)
    return model.loss(images, samples)


def hidden_of(samples):
    """True where a region of SimMIM's mask, or SparK's last one, is hidden."""
    mask = (~SparseHelper._cur_active[:, 0] if samples is None else
            torch.stack([sample.mask for sample in samples]).bool())
    return F.interpolate(mask[:, None].float(), size=(64, 64)).bool()


@each_student
def test_without_teacher_it_is_the_stock_algorithm(name):
    """To the bit: weights, names, losses, gradients, the next random number.
    """
    images, samples = batch()
    model = build(masked_student(name, teacher=None, aligned_layers=[]))
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        wanted_model = build(stock(name))
    state, wanted = model.state_dict(), wanted_model.state_dict()
    assert list(state) == list(wanted)
    assert all(torch.equal(state[key], wanted[key]) for key in wanted)
    loss, = step(model, images, samples).items()
    after = torch.rand(1)
    wanted_loss = step(wanted_model, images, samples)['loss']
    assert torch.equal(after, torch.rand(1))
    assert loss[0] == 'loss_recon' and torch.equal(loss[1], wanted_loss)
    loss[1].backward()
    wanted_loss.backward()
    for ours, theirs in zip(model.parameters(), wanted_model.parameters()):
        assert (ours.grad is None) == (theirs.grad is None)
        assert ours.grad is None or torch.equal(ours.grad, theirs.grad)


@each_student
def test_a_teacher_changes_neither_the_start_nor_the_reconstruction(name):
    images, samples = batch()
    model = build(masked_student(name))
    control = build(masked_student(name, teacher=None, aligned_layers=[]))
    state = model.state_dict()
    for key, tensor in control.state_dict().items():
        assert torch.equal(tensor, state[key]), key
    losses = step(model, images, samples)
    assert torch.equal(losses['loss_recon'],
                       step(control, images, samples)['loss_recon'])
    assert list(losses) == ['loss_recon', 'loss_align_s3_t3']


@each_student
def test_all_learn_and_the_teacher_does_not(name):
    images, samples = batch()
    model = build(
        masked_student(name, aligned_layers=[(-1, 3), (0, 0), (0.5, 1.0)]))
    before = model.teacher.fingerprint()
    losses = step(model, images, samples)
    assert list(losses)[1:] == [
        'loss_align_s3_t3', 'loss_align_s0_t0', 'loss_align_s1_t5']
    sum(losses.values()).backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
    assert model.teacher.fingerprint() == before
    assert not any('teacher' in key for key in model.state_dict())


def test_what_a_stage_is():
    swin, resnet, convnext = (
        build(masked_student(name)) for name in STUDENTS)
    assert all(
        ours is stage.blocks[-1]
        for ours, stage in zip(swin.stock.stages, swin.backbone.stages))
    assert len(swin.backbone.stages[0].blocks) == 2
    assert resnet.stock.stages[3] is resnet.backbone.layer4
    assert convnext.stock.stages[3] is convnext.backbone.stages[3]


@each_student
@pytest.mark.parametrize('stage, cells', [(0, 16), (1, 8), (2, 4)])
def test_alignment_against_the_rule(name, stage, cells):
    """Means of a patch's cells, where visible, against the teacher's tokens.
    """
    images, samples = batch()
    model = build(masked_student(name, aligned_layers=[(stage, 3)]))
    maps, ids = [], []
    model.stock.stages[stage].register_forward_hook(
        lambda module, args, output: maps.append(output))
    model.teacher.register_forward_hook(
        lambda module, args, output: ids.append((args[1], output[0])))
    loss = step(model, images, samples)['loss_align_s%d_t3' % stage]
    (ids_keep, tokens), = ids
    hidden = hidden_of(samples if name == 'SimMIM' else None)
    feature = maps[0]
    if name == 'SimMIM':
        feature = feature.transpose(1, 2).reshape(3, -1, cells, cells)
    total, width = 0, 4 * 2
    side = cells // 4
    for image in range(3):
        assert len(set(ids_keep[image].tolist())) == width
        for k, patch in enumerate(ids_keep[image].tolist()):
            row, column = patch // 4, patch % 4
            assert not hidden[image, 0, row * 16:row * 16 + 16,
                              column * 16:column * 16 + 16].any()
            given = feature[image, :, row * side:(row + 1) * side,
                            column * side:(column + 1) * side].mean((1, 2))
            given = model.distill_neck.projectors[0](given)
            total += (F.normalize(given, dim=0) - F.normalize(
                tokens[image, 1 + k], dim=0)).abs().mean()
    torch.testing.assert_close(loss, total / (3 * width))


@pytest.mark.parametrize('ratio, same', [(None, True), (0, False)])
@each_student
def test_hidden_pixels_reach_no_alignment(name, ratio, same):
    """To the bit; visible ones do, and with teacher_mask_ratio=0 all do."""
    images, samples = batch()
    noise = torch.randn_like(images)
    model = build(masked_student(name, teacher_mask_ratio=ratio)).eval()
    outputs = []
    model.teacher.register_forward_hook(
        lambda module, args, output: outputs.append(output[0]))
    before = step(model, images, samples)
    hidden = hidden_of(samples if name == 'SimMIM' else None)
    after = step(model, images + noise * hidden, samples)
    assert torch.equal(*outputs) == same
    assert torch.equal(before['loss_align_s3_t3'],
                       after['loss_align_s3_t3']) == same
    assert not torch.equal(before['loss_recon'], after['loss_recon'])
    seen = step(model, images + noise * ~hidden, samples)
    assert not torch.equal(before['loss_align_s3_t3'],
                           seen['loss_align_s3_t3'])


@each_student
def test_a_teacher_that_sees_all_is_compared_where_the_student_sees(name):
    images, samples = batch()
    model = build(masked_student(name, teacher_mask_ratio=0))
    outputs, pairs = [], []
    model.teacher.register_forward_hook(
        lambda module, args, output: outputs.append((*args[1:], output[0])))
    model.distill_loss.register_forward_hook(
        lambda module, args, output: pairs.append(args))
    step(model, images, samples)
    ids, tokens = outputs[0]
    assert tokens.shape == (3, 17, 32)
    assert [sorted(row) for row in ids.tolist()] == [list(range(16))] * 3
    assert torch.equal(pairs[0][1], tokens[:, 1:9])
    whole, = model.teacher(images)
    torch.testing.assert_close(
        tokens[:, 1:], whole[:, 1:].gather(
            1, ids[..., None].expand(-1, -1, 32)))


@each_student
@pytest.mark.parametrize('options', [
    dict(distill_loss=dict(type='TokenRelationLoss')),
    dict(distill_loss=dict(
        type='FeatureAlignmentLoss', criterion='smooth_L1',
        normalize='layer')),
    dict(target=dict(type='Standardize', momentum=0.1)),
])
def test_other_losses_and_targets(name, options):
    model = build(masked_student(name, **options))
    loss = step(model, *batch())['loss_align_s3_t3']
    assert loss > 0 and loss.isfinite()


def test_spark_draws_the_regions_that_the_teacher_sees():
    model = build(masked_student('SparKResNet', mask_ratio=0.75))
    images, _ = batch()
    seen = []
    model.teacher.register_forward_hook(
        lambda module, args, output: seen.append(args[1]))
    step(model, images, None)
    units = SparseHelper._cur_active.flatten(1).nonzero()[:, 1:]
    assert torch.equal(seen[0], patches_of_units(units, (2, 2), (4, 4)))


@each_student
def test_several_teachers_of_different_grids(name):
    images, samples = batch()
    cfg = masked_student(name)
    teacher, fine = cfg.pop('teacher'), masked_student(name)['teacher']
    fine['backbone']['patch_size'] = 8
    cfg.pop('aligned_layers')
    cfg['teachers'] = dict(
        coarse=dict(teacher=teacher, aligned_layers=[(-1, 3)]),
        fine=dict(teacher=fine, aligned_layers=[(1, 2)], mask_ratio=0))
    model = build(cfg)
    assert [t.patch_grid for t in model.teachers.values()] == [(4, 4), (8, 8)]
    losses = step(model, images, samples)
    assert list(losses)[1:] == ['loss_align_coarse_s3_t3',
                                'loss_align_fine_s1_t2']
    assert all(loss.isfinite() for loss in losses.values())


@each_student
def test_a_copy_is_a_model_of_its_own(name):
    """As an EMA makes one: its algorithm runs its own parts."""
    images, samples = batch()
    model = build(masked_student(name))
    twin = copy.deepcopy(model)
    assert twin.stock.algorithm.backbone is twin.backbone
    assert twin.stock.stages[0] is not model.stock.stages[0]
    before = step(model.eval(), images, samples)
    for parameter in twin.parameters():
        parameter.data.add_(1.)
    assert step(model, images, samples) == before
    assert step(twin.eval(), images, samples) != before


@each_student
def test_whole_images_after_a_masked_step(name):
    """The mask of the last step, of other images, hides nothing."""
    images, samples = batch()
    model = build(masked_student(name)).eval()
    wanted = model.extract_feat(images)
    step(model, images, samples)
    for number in (1, 3):
        found = model.extract_feat(images[:number])
        assert len(found) == (1 if name == 'SimMIM' else 4)
        for ours, theirs in zip(found, wanted):
            torch.testing.assert_close(ours, theirs[:number])


@each_student
def test_one_image_is_enough(name):
    images, samples = batch(1)
    losses = step(build(masked_student(name)), images, samples)
    assert all(loss.isfinite() for loss in losses.values())


@pytest.mark.slow
def test_simmim_compiles_in_one_graph_after_its_first_step():
    images, samples = batch()
    model = build(masked_student('SimMIM'))
    wanted = step(model, images, samples)
    compiled = torch.compile(model.loss, backend='eager', fullgraph=True)
    torch.testing.assert_close(compiled(images, samples), wanted)


def test_masks_that_the_teacher_cannot_follow_are_refused():
    model = build(masked_student('SimMIM'))
    step(model, *batch(mask_ratio=0.5))
    with pytest.raises(RuntimeError, match='as many: 2 were visible of 2 x 2'):
        step(model, *batch(mask_ratio=0.75))
    fresh = build(masked_student('SimMIM'))
    with pytest.raises(RuntimeError, match='whole regions of 32 px'):
        step(fresh, *batch(mask_patch_size=16))
    fresh = build(masked_student('SimMIM'))
    with pytest.raises(ValueError, match='leaves none of the 2 x 2 regions'):
        step(fresh, *batch(mask_ratio=1.))


def test_a_batch_without_masks_or_of_another_size_is_refused():
    images, samples = batch()
    model = build(masked_student('SimMIM'))
    for given in (None, [None] * 3):
        with pytest.raises(ValueError, match=r'mask of shape None .*\(16, 16'):
            model.loss(images, given)
    samples[1].set_field(samples[1].mask[:8, :8], 'mask')
    with pytest.raises(ValueError, match=r'shape \(8, 8\) .*input_size=64'):
        model.loss(images, samples)
    for name in STUDENTS:
        with pytest.raises(ValueError, match='96 x 64 px, but .* 64 x 64'):
            build(masked_student(name)).loss(
                images.repeat(1, 1, 2, 1)[..., :96, :], samples)


@pytest.mark.parametrize('name, change, message', [
    ('SimMIM', dict(mask_ratio=0.5), 'mask_ratio=0.5: .*SimMIMMaskGenerator'),
    ('SimMIM', dict(backbone=dict(img_size=72)), r'72\) .* multiple of 32'),
    ('SimMIM', dict(backbone=dict(out_indices=(0, 3))), 'must be the last, 3'),
    ('SimMIM', dict(neck=dict(in_channels=32)), 'in_channels is 32.*needs 64'),
    ('SimMIM', dict(neck=dict(encoder_stride=16)), 'stride is 16.*needs 32'),
    ('SimMIM', dict(head=dict(patch_size=8)), 'patch_size is 8.*needs 4'),
    ('SimMIM', dict(backbone=dict(in_channels=1)), 'in_channels is 1'),
    ('SimMIM', dict(teacher_mask_ratio=0.3),
     r'teacher_mask_ratio=0.3.*visible \(None\) or all patches \(0\)'),
    ('SimMIM', dict(head=None), 'needs both.*FeatureDistiller'),
    ('SimMIM', dict(teacher_mask_ratio=0, generator=dict(
        type='FeatureGenerationNeck')), 'generator=.* masked in regions'),
    ('SimMIM', dict(distill_loss=dict(type='QKVRelationLoss')),
     'which the student does not have'),
    ('SimMIM', dict(aligned_layers=[(4, 3)]), 'no block 4.* -4 to 3'),
    ('SparKResNet', dict(input_size=72), '72 is no multiple of .*=32'),
    ('SparKResNet', dict(mask_ratio=0.95), '0.95 must hide some of the 4 '),
    ('SparKResNet', dict(mask_ratio='x'), "mask_ratio='x' must hide"),
    ('SparKResNet', dict(enc_dec_norm_dim=32), '32, but the last .* 64 wide'),
    ('SparKResNet', dict(backbone=dict(out_indices=(3, ))),
     r'out_indices is \(3,\).*needs \(0, 1, 2, 3\)'),
    ('SparKResNet', dict(neck=dict(upsample_ratio=16)), 'ratio is 16.*needs'),
    ('SparKResNet', dict(head=dict(patch_size=16)), 'patch_size is 16.*32'),
    ('SparKResNet', dict(downsample_raito=16), 'ratio is 32.*needs 16'),
    ('SparKConvNeXt', dict(backbone=dict(gap_before_output=True)),
     'gap_before_output is True.*needs False'),
    ('SparKConvNeXt', dict(backbone=dict(arch='tinny')), 'cannot be built.*'),
])
def test_parts_that_do_not_fit_are_refused(name, change, message):
    cfg = Config(dict(model=masked_student(name)))
    cfg.merge_from_dict(dict(model=change))
    with pytest.raises(ValueError, match=message):
        MODELS.build(cfg.model)


def test_options_of_spark_are_refused_elsewhere(toy_model):
    with pytest.raises(ValueError, match='input_size=32: .*options of SparK'):
        MODELS.build(dict(toy_model, input_size=32))


@each_student
def test_a_teacher_whose_positions_are_fixed_must_fit(name):
    cfg = masked_student(name)
    cfg['teacher']['backbone'] = dict(
        HIVIT_TEACHER, type='HiViT', img_size=48, patch_size=16)
    with pytest.raises(ValueError, match='3 x 3 patches, the student of 4 x'):
        MODELS.build(cfg)


def test_sync_norms_without_gpu_in_a_group_are_refused(tmp_path):
    cfg = masked_student('SparKResNet')
    del cfg['enc_dec_norm_cfg']
    torch.distributed.init_process_group(
        'gloo', init_method=f'file://{tmp_path}/meet', rank=0, world_size=1)
    try:
        with pytest.raises(ValueError, match='needs a GPU.*SparseBatchNorm2d'):
            MODELS.build(cfg)
        MODELS.build(masked_student('SparKResNet'))
    finally:
        torch.distributed.destroy_process_group()
