"""Several teachers: their options, names, losses, and what is dropped."""
import copy

import pytest
import torch
from mmengine.config import Config
from mmengine.model import is_model_wrapper
from mmpretrain import get_model
from mmpretrain.registry import MODELS

from dmae_mm.host import without_teachers
from dmae_mm.models.losses import FeatureAlignmentLoss
from tests.toys.golden import assert_golden, read_golden
from tests.toys.models import TOY_MODEL, TWO_TEACHERS, two_teachers

# Teachers are sorted by name, whatever the config says.
MAE_LOSSES = ['loss_align_mae_s1_t1', 'loss_align_mae_s2_t3']
DINO_LOSSES = ['loss_align_dino_s3_t3']
LOSSES = ['loss_recon', *DINO_LOSSES, *MAE_LOSSES]


def build(**changes):
    """A model with two teachers, with equal weights each time."""
    torch.manual_seed(0)
    model = MODELS.build(two_teachers(**changes))
    model.init_weights()
    return model


def step(model, images):
    """Losses with the same mask each time, and gradients of their sum."""
    torch.manual_seed(1)
    losses = model.loss(images, None)
    model.zero_grad()
    sum(losses.values()).backward()
    return losses, {
        name: p.grad.clone()
        for name, p in model.named_parameters() if p.grad is not None
    }


def test_names(images):
    model = build()
    losses = model.loss(images, None)
    assert list(losses) == LOSSES
    total, _ = model.parse_losses(losses)
    torch.testing.assert_close(total, sum(losses.values()))
    assert model.teacher is None and list(model.teachers) == ['dino', 'mae']
    assert model.teachers['dino'].embed_dims == 16
    assert {
        name.rsplit('.projectors', 1)[0]
        for name in model.state_dict() if 'distill' in name
    } == {'distill_necks.mae', 'distill_necks.dino'}


def test_each_sees_its_own_patches(images):
    """The student's 4 of 16, and these first among 8."""
    model = build()
    seen = {}
    for name, teacher in model.teachers.items():
        teacher.register_forward_hook(
            lambda module, args, output, name=name: seen.update(
                {name: args[1]}))
    model.loss(images, None)
    assert seen['mae'].shape == (3, 4) and seen['dino'].shape == (3, 8)
    assert torch.equal(seen['dino'][:, :4], seen['mae'])


def test_losses_are_those_of_models_with_one_teacher(images):
    """To the bit, of equal weights and masks; gradients add up."""
    model = build()
    losses, gradients = step(model, images)
    total = {}
    for name, options in TWO_TEACHERS.items():
        options = copy.deepcopy(options)
        if 'mask_ratio' in options:
            options['teacher_mask_ratio'] = options.pop('mask_ratio')
        single = MODELS.build(dict(copy.deepcopy(TOY_MODEL), **options))
        single.init_weights()
        weights = {
            key.replace(f'distill_necks.{name}.', 'distill_neck.'): value
            for key, value in model.state_dict().items()
            if not key.startswith('distill_necks.')
            or key.startswith(f'distill_necks.{name}.')
        }
        single.load_state_dict(weights, strict=True)
        its, its_gradients = step(single, images)
        for key, value in its.items():
            ours = losses[key.replace('align_', f'align_{name}_')]
            assert torch.equal(ours, value), key
        for key, value in its_gradients.items():
            key = key.replace('distill_neck.', f'distill_necks.{name}.')
            total[key] = total.get(key, 0) + value
    # Both single models have a reconstruction loss; the decoder's gradients
    # are those of it alone.
    for key, value in gradients.items():
        if key.startswith('neck.'):
            torch.testing.assert_close(total[key], 2 * value)
        elif key.startswith('distill_necks.'):
            torch.testing.assert_close(total[key], value)


def test_each_has_its_own_images(images):
    """Grid, normalisation, type and channels are each teacher's own."""
    cfg = two_teachers(
        data_preprocessor=dict(
            type='SelfSupDataPreprocessor', mean=[1.] * 3, std=[2.] * 3))
    timm = dict(
        type='TimmTeacher',
        model_name='vit_tiny_patch16_224',
        model_kwargs=dict(
            embed_dim=16, depth=2, num_heads=2, patch_size=4, img_size=16,
            in_chans=1),
        mean=[5.],
        std=[4.],
        channels=[1],
        dtype='bfloat16',
        allow_random=True)
    cfg['teachers']['timm'] = dict(teacher=timm, aligned_layers=[(0, 0)])
    model = MODELS.build(cfg)
    model.init_weights()
    theirs = {}
    for name, teacher in model.teachers.items():
        teacher.image_matcher.register_forward_hook(
            lambda module, args, output, name=name: theirs.update(
                {name: output}))
    losses = model.loss(images, None)
    assert all(loss.isfinite() for loss in losses.values())
    assert losses['loss_align_timm_s0_t0'].dtype == torch.float32
    assert [tuple(theirs[name].shape) for name in ('mae', 'dino', 'timm')
            ] == [(3, 3, 32, 32)] * 2 + [(3, 1, 16, 16)]
    assert torch.equal(theirs['mae'], images)
    # ((2 x + 1) - 5) / 4 of the second channel; resizing keeps the mean.
    torch.testing.assert_close(
        theirs['timm'].mean(), ((2 * images[:, 1] + 1 - 5) / 4).mean(),
        rtol=0.1, atol=0.02)
    assert model.teachers['timm'].dtype == torch.bfloat16
    assert model.teachers['mae'].dtype == torch.float32


def test_teachers_are_no_part_of_the_model():
    """Of parameters, buffers, state dict or modules, so of no DDP bucket."""
    model = build()
    own = {id(tensor) for tensor in model.state_dict(keep_vars=True).values()}
    own |= {id(p) for p in model.parameters()}
    for teacher in model.teachers.values():
        assert not any(teacher is module for module in model.modules())
        assert not own & {id(p) for p in teacher.parameters()}
        assert not any(p.requires_grad for p in teacher.parameters())
    copied = copy.deepcopy(model)
    assert not is_model_wrapper(copied)
    for name, teacher in model.teachers.items():
        assert copied.teachers[name] is teacher
    assert copied.distill_necks['mae'] is not model.distill_necks['mae']
    assert copied.distillations.by_name['mae'].neck is (
        copied.distill_necks['mae'])


def test_all_that_learns_gets_a_gradient(images):
    _, gradients = step(build(), images)
    model = build()
    for name, parameter in model.named_parameters():
        assert (name in gradients) == parameter.requires_grad, name


def test_a_copy_learns_by_itself(images):
    """An EMA's, say: its features reach its own projectors."""
    model = build()
    copied = copy.deepcopy(model)
    wanted, _ = step(model, images)
    ours, gradients = step(copied, images)
    for name in LOSSES:
        assert torch.equal(ours[name], wanted[name])
    assert gradients['distill_necks.mae.projectors.0.weight'].abs().sum() > 0


def test_a_trained_student_needs_no_teacher_file(images, tmp_path):
    cfg = two_teachers()
    for options in cfg['teachers'].values():
        options['teacher'].update(
            checkpoint=str(tmp_path / 'gone.pth'), allow_random=False)
    torch.manual_seed(0)
    model = build()
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'student.pth')
    config = Config(dict(model=cfg, default_scope='mmpretrain'))
    loaded = get_model(
        config, pretrained=str(tmp_path / 'student.pth'), device='cpu')
    features, = loaded.extract_feat(images)
    assert torch.equal(features, model.eval().extract_feat(images)[0])


def test_without_teachers():
    cfg = two_teachers(teacher_dropping=0.5)
    cfg['aligned_layers'] = []
    alone = without_teachers(cfg)
    assert alone['teachers'] is None and alone['teacher_dropping'] is None
    assert cfg['teachers'] and cfg['teacher_dropping'] == 0.5
    model = MODELS.build(alone)
    assert model.teachers == {}
    assert {name.split('.')[0] for name in model.state_dict()} == {
        'backbone', 'neck'}


MAE = TWO_TEACHERS['mae']


@pytest.mark.parametrize('change, message', [
    (dict(teachers={}), r'teachers=\{\} is not a dict of distillations.*one '
     r'teacher as teacher=dict'),
    (dict(teachers=[MAE]), 'is not a dict of distillations'),
    (dict(teacher=MAE['teacher'], aligned_layers=[(2, 3)]),
     r"so is teacher, aligned_layers, .*each of \['mae', 'dino'\], and set "
     r'teacher=None, aligned_layers=\[\]'),
    (dict(teacher_mask_ratio=0.5), 'so is teacher_mask_ratio'),
    (dict(distill_neck=dict(type='FeatureProjectionNeck')),
     'so is distill_neck, .*set distill_neck=None'),
    (dict(teachers={'a.b': MAE}), "'a.b' cannot be the name of a teacher"),
    (dict(teachers={'': MAE}), "'' cannot be the name"),
    (dict(teachers={3: MAE}), '3 cannot be the name'),
    (dict(teachers={'keys': MAE}), "'keys' cannot be the name"),
    (dict(teachers=dict(a=dict(aligned_layers=[(2, 3)]))),
     "teachers.a=.* is not a dict with a 'teacher'"),
    (dict(teachers=dict(a=dict(MAE, alignedlayers=[]))),
     "teachers.a: 'alignedlayers' is no option of a distillation. It has "
     'teacher, aligned_layers, distill_neck, distill_loss, mask_ratio, '
     'target'),
    (dict(teachers=dict(a=dict(MAE, teacher_mask_ratio=0.5))),
     "teachers.a: 'teacher_mask_ratio' is no option .*mask_ratio"),
    (dict(teachers=dict(a=dict(teacher=MAE['teacher']))),
     'teachers.a: aligned_layers is empty'),
    (dict(teachers=dict(a=dict(MAE, teacher=None))),
     r'teachers.a: aligned_layers=.* but teacher=None'),
    (dict(teachers=dict(a=dict(teacher=None))),
     "teachers.a: teacher=None. Remove 'a'"),
    (dict(teachers=dict(a=MAE, b=dict(MAE, aligned_layers=[(2, 9)]))),
     'teachers.b: aligned_layers: the teacher has no block 9'),
    (dict(teachers=dict(a=MAE, b=dict(MAE, mask_ratio=0.9))),
     "teachers.b: mask_ratio=0.9 is not a number from 0 .*student's 0.75"),
    (dict(teachers=dict(a=MAE, b=dict(MAE, distill_loss=dict(beta=1)))),
     r"teachers.b: distill_loss=\{'beta': 1\} is not a dict with a .type"),
    (dict(teacher_dropping=1.5),
     'teacher_dropping=1.5 is not a probability from 0 to 1'),
    (dict(teacher_dropping=True), 'teacher_dropping=True is not a prob'),
    (dict(teacher_dropping='0.5'), "teacher_dropping='0.5' is not a prob"),
    (dict(teachers=dict(a=MAE), teacher_dropping=0.5),
     'teacher_dropping=0.5 needs at least two teachers'),
    (dict(teachers=None, **MAE, teacher_dropping=0.5),
     'teacher_dropping=0.5 needs at least two teachers'),
    (dict(teachers=None, teacher_dropping=0.5),
     'teacher_dropping=0.5 needs at least two teachers'),
    (dict(teachers=dict(a=MAE, b=dict(MAE, distill_loss=dict(
        type='mmpretrain.L1NoImages'))), teacher_dropping=0.5),
     'teachers.b.distill_loss: teacher_dropping=0.5 weighs each image, but a '
     'L1NoImages has no per_image'),
])
def test_what_does_not_fit_is_refused(change, message):
    with pytest.raises(ValueError, match=f'(?s){message}'):
        MODELS.build(two_teachers(**copy.deepcopy(change)))


@MODELS.register_module(force=True)
class L1NoImages(torch.nn.Module):
    """A user's loss: all that is asked of one."""

    def forward(self, student, teacher):
        return (student - teacher).abs().mean()


def test_a_loss_of_ones_own_needs_no_images_without_dropping(images):
    cfg = two_teachers()
    cfg['teachers']['mae']['distill_loss'] = dict(type='L1NoImages')
    assert MODELS.build(cfg).loss(images, None)[MAE_LOSSES[0]].isfinite()


class TestDropping:
    """``teacher_dropping``, and that nothing of a step depends on it else."""

    def test_shares_are_logged(self, images):
        """Weighed by hand, from the loss of each image by itself."""
        plain, _ = step(build(), images)
        of_pairs = {name: [] for name in LOSSES[1:]}
        model = build(teacher_dropping=0.5)
        kept = {}
        original = model.distillations._drop
        model.distillations._drop = lambda by_teacher: (
            kept.update(by_teacher=by_teacher), original(by_teacher))[1]
        losses, _ = step(model, images)
        assert list(losses) == LOSSES
        assert torch.equal(losses['loss_recon'], plain['loss_recon'])
        for each in kept['by_teacher']:
            of_pairs.update(each)
        for name, value in of_pairs.items():  # a mean over images, as ever
            assert value.shape == (3, )
            torch.testing.assert_close(value.mean(), plain[name])
        # The draws follow the mask's; what stays is counted by hand.
        mae = of_pairs[MAE_LOSSES[0]] + of_pairs[MAE_LOSSES[1]]
        dino = of_pairs[DINO_LOSSES[0]]
        torch.manual_seed(1)
        model.backbone(images)
        draws = torch.rand(2, 3)
        keep = torch.stack([
            (dino >= mae) | (draws[0] >= .5),
            (mae > dino) | (draws[1] >= .5)]).float()
        assert 3 <= keep.sum() < 6
        wanted = (keep * torch.stack([dino, mae])).sum() / keep.sum()
        torch.testing.assert_close(
            sum(losses[name] for name in LOSSES[1:]), wanted)
        torch.testing.assert_close(
            losses[MAE_LOSSES[0]],
            (keep[1] * of_pairs[MAE_LOSSES[0]]).sum() / keep.sum())

    @pytest.mark.parametrize('probability', [0, 1.0])
    def test_extreme_probabilities(self, images, probability):
        plain, _ = step(build(), images)
        losses, gradients = step(
            build(teacher_dropping=probability), images)
        if probability == 0:  # the mean over teachers
            for name in LOSSES[1:]:
                torch.testing.assert_close(losses[name], plain[name] / 2)
        else:  # the mean of each image's worst is at least the worse mean
            mae, dino = (sum(plain[name] for name in names)
                         for names in (MAE_LOSSES, DINO_LOSSES))
            total = sum(losses[name] for name in LOSSES[1:])
            assert total >= max(mae, dino) - 1e-6
        assert all(g.isfinite().all() for g in gradients.values())
        # DDP wants a gradient, perhaps of zeros, for each parameter.
        assert gradients.keys() == {
            name for name, p in build().named_parameters()
            if p.requires_grad
        }

    def test_draws_follow_the_seed(self, images):
        model = build(teacher_dropping=0.5)
        first, again = step(model, images)[0], step(model, images)[0]
        assert all(torch.equal(first[name], again[name]) for name in first)
        torch.manual_seed(3)
        torch.rand(1)
        assert not torch.equal(
            model.loss(images, None)[LOSSES[1]], first[LOSSES[1]])

    def test_no_teacher_s_image_counts_twice(self, images):
        """Equal teachers: the mean over what is kept is either's loss."""
        cfg = two_teachers(teacher_dropping=0.7)
        cfg['teachers'] = dict(a=MAE, b=MAE)
        model = MODELS.build(copy.deepcopy(cfg))
        model.init_weights()
        model.distill_necks['b'].load_state_dict(
            model.distill_necks['a'].state_dict())
        one = images[:1]
        losses, _ = step(model, one)
        model.distillations.teacher_dropping = None
        both, _ = step(model, one)
        torch.testing.assert_close(
            sum(v for k, v in losses.items() if 'align' in k),
            sum(v for k, v in both.items() if 'align_a' in k))

    def test_equals_the_reference(self, monkeypatch):
        """UNIC's two teachers, with its draws in the place of ours."""
        golden, meta = read_golden('unic_a')
        model = build(teacher_dropping=meta['dropping'])
        criterion = FeatureAlignmentLoss(
            meta['weights'], normalize=False, beta=meta['beta'],
            cls_weight=0.5)
        by_teacher = []
        for name in meta['teachers']:
            student, teacher = (
                torch.cat([golden[f'{side}/{name}/cls'].unsqueeze(1),
                           golden[f'{side}/{name}/patch']], dim=1)
                for side in ('student', 'teacher'))
            by_teacher.append({
                f'loss_align_{name}': criterion.per_image(
                    student, teacher, has_cls=True)})
        monkeypatch.setattr(
            torch, 'rand_like', lambda *_: golden['keep'].clone())
        losses = model.distillations._drop(by_teacher)
        assert_golden(
            sum(value for each in losses for value in each.values()),
            golden['loss'])


G2SD = dict(
    neck=dict(TOY_MODEL['neck'], decoder_embed_dim=16),
    teacher=dict(
        type='MAETeacher',
        backbone=TOY_MODEL['teacher']['backbone'],
        neck=dict(
            type='MAEPretrainDecoder', decoder_embed_dim=24, decoder_depth=3,
            decoder_num_heads=2),
        allow_random=True),
    aligned_layers=[(-1, 1)],
    distill_loss=dict(type='MaskedFeatureLoss'))
AMD = dict(
    teacher_mask_ratio=0.5,
    generator=dict(type='FeatureGenerationNeck', num_heads=2))


@pytest.mark.parametrize('change, tokens', [
    (dict(), 5),  # CLS and four visible patches of 16
    (dict(teacher_mask_ratio=0.5), 5),
    (AMD, 9),  # what the teacher sees
    (G2SD, 17),  # what its decoder gives
    (dict(distill_loss=dict(type='TokenRelationLoss')), 4),
    (dict(backbone=dict(TOY_MODEL['backbone'], mask_ratio=0.)), 17),
], ids=['DMAE', 'sees more', 'AMD', 'G2SD', 'patches', 'all'])
def test_what_is_measured_is_what_a_step_standardises(images, change,
                                                      tokens):
    target = dict(type='PHIStandardize', num_images=20)
    model = MODELS.build(copy.deepcopy(
        TOY_MODEL | dict(target=target) | change))
    model.init_weights()
    part = model.distillations.by_name['']
    assert part.num_targets() == tokens
    counted, seen = [], []
    accumulate = part.targets[0].accumulate
    part.targets[0].accumulate = lambda features: (
        counted.append(features), accumulate(features))
    for _ in range(4):  # more tokens than channels
        part.measure_targets(torch.cat([images] * 3))
    part.targets[0].finish()
    assert {tuple(each.shape[:2]) for each in counted} == {(9, tokens)}
    assert part.unmeasured_targets() == []
    part.targets[0].register_forward_pre_hook(
        lambda module, args: seen.append(args[0].shape[1]))
    losses = model.loss(images, None)
    assert seen == [tokens]
    assert all(loss.isfinite() for loss in losses.values())
