import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dmae_mm.models import FeatureAlignmentLoss
from tests.toys.golden import assert_golden, read_golden

# One image, two tokens, two channels.
STUDENT = torch.tensor([[[3., 4.], [0., 2.]]])
TEACHER = torch.tensor([[[4., 3.], [1., 0.]]])


@pytest.mark.parametrize('criterion, normalize, expected', [
    # |3-4|, |4-3|, |0-1|, |2-0|
    ('L1', False, (1 + 1 + 1 + 2) / 4),
    ('L2', False, (1 + 1 + 1 + 4) / 4),
    # (.6, .8) - (.8, .6) and (0, 1) - (1, 0)
    ('L1', True, (.2 + .2 + 1 + 1) / 4),
    ('L2', True, (.04 + .04 + 1 + 1) / 4),
    # Cosines .6 * .8 + .8 * .6 and 0.
    ('cosine', True, ((1 - .96) + (1 - 0)) / 2),
    # Up to beta = 1, half of the squares; 2 is beyond it.
    ('smooth_L1', False, (.5 + .5 + .5 + (2 - .5)) / 4),
    # beta = 1 / sqrt(2): .2 is below, 1 beyond it.
    ('smooth_L1', True, (2 * (.04 * math.sqrt(2) / 2) + 2 *
                         (1 - 1 / math.sqrt(8))) / 4),
])
def test_by_hand(criterion, normalize, expected):
    loss = FeatureAlignmentLoss(criterion, normalize)(STUDENT, TEACHER)
    assert loss.item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize('beta, expected', [
    # .2, .2, 1, 1: the squares of all, then of the first two.
    (2.0, (.04 + .04 + 1 + 1) / 4 / 4),
    (0.5, (.04 + .04 + .75 + .75) / 4),
])
def test_beta_by_hand(beta, expected):
    loss = FeatureAlignmentLoss('smooth_L1', beta=beta)(STUDENT, TEACHER)
    assert loss.item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize('term', ['dir', 'gen'])
def test_equals_amds_reference(term):
    """Averaged over its two pairs, of tokens as they are."""
    golden, meta = read_golden('amd_feat_a')
    assert meta['align_loss'] == 'l2'
    loss = FeatureAlignmentLoss(
        'L2', normalize=False, loss_weight=1 / meta['n_layers'])
    students = [golden[f'student_{term}.{pair}'].requires_grad_()
                for pair in range(meta['n_layers'])]
    total = sum(
        loss(student, golden[f'teacher_{term}.{pair}'])
        for pair, student in enumerate(students))
    total.backward()
    assert_golden(total, golden[f'loss_{term}'].float())
    for pair, student in enumerate(students):
        assert_golden(student.grad, golden[f'grad_student_{term}.{pair}'])


def test_sum_of_criteria_by_hand():
    """The cosine is taken of normalised tokens, the rest as they are."""
    loss = FeatureAlignmentLoss(
        dict(cosine=0.5, smooth_L1=0.25), normalize=False, loss_weight=2.0)
    cosine, smooth = (.04 + 1) / 2, (.5 + .5 + .5 + 1.5) / 4
    assert loss(STUDENT, TEACHER).item() == pytest.approx(
        2 * (.5 * cosine + .25 * smooth), rel=1e-6)


@pytest.mark.parametrize('options, expected', [
    # The teacher's tokens become (1, -1) both.
    (dict(criterion='L1'), (2 + 5 + 1 + 3) / 4),
    (dict(criterion='L2'), (4 + 25 + 1 + 9) / 4),
    (dict(criterion='smooth_L1'), (1.5 + 4.5 + .5 + 2.5) / 4),
    (dict(criterion='smooth_L1', beta=4.0), (.5 + 3 + 1 / 8 + 9 / 8) / 4),
    # The cosines of (3, 4) and (0, 2) with it.
    (dict(criterion='cosine'), (1 + .2 / 2**.5 + 1 + 1 / 2**.5) / 2),
])
def test_layer_normalised_teacher_by_hand(options, expected):
    loss = FeatureAlignmentLoss(normalize='layer', **options)
    assert loss(STUDENT, TEACHER).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize('cls_weight, expected', [
    # The first token is 1 on average, the other two 1.5 and 0.
    (None, 2.5 / 3), (0, .75), (0.25, .25 + .75 * .75), (1, 1),
])
def test_weight_of_cls_by_hand(cls_weight, expected):
    equal = torch.ones(1, 1, 2)
    loss = FeatureAlignmentLoss(
        'L1', normalize=False, loss_weight=3.0, cls_weight=cls_weight)
    value = loss(
        torch.cat([STUDENT, equal], 1), torch.cat([TEACHER, equal], 1), True)
    assert value.item() == pytest.approx(3 * expected, rel=1e-6)


def test_cls_must_be_there_to_be_weighed():
    with pytest.raises(ValueError, match='cls_weight=0.5 needs CLS.*Remove'):
        FeatureAlignmentLoss(cls_weight=0.5)(STUDENT, TEACHER)


@given(
    criterion=st.sampled_from([
        'L1', 'L2', 'smooth_L1', 'cosine',
        dict(cosine=0.9, L2=0.1), dict(cosine=0.5, smooth_L1=2.0, L1=1.0)
    ]),
    normalize=st.sampled_from([True, False, 'layer']),
    cls_weight=st.sampled_from([None, 0.3]),
    shape=st.tuples(st.integers(1, 3), st.integers(2, 4), st.integers(2, 5)))
@settings(max_examples=50, deadline=None)
def test_losses_of_images_average_to_the_loss(criterion, normalize,
                                              cls_weight, shape):
    if criterion == 'cosine' and not normalize:
        normalize = True
    student, teacher = torch.randn(
        2, *shape, generator=torch.Generator().manual_seed(0)).unbind()
    loss = FeatureAlignmentLoss(
        criterion, normalize, loss_weight=0.7, cls_weight=cls_weight)
    images = loss.per_image(student, teacher, True)
    assert images.shape == shape[:1]
    torch.testing.assert_close(images.mean(), loss(student, teacher, True))
    torch.testing.assert_close(
        images[-1], loss(student[-1:], teacher[-1:], True))


@pytest.fixture
def tokens():
    """Two images, three tokens, eight channels, in double precision."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(
        2, 2, 3, 8, dtype=torch.float64, generator=generator).unbind()


@pytest.mark.parametrize('options', [
    dict(criterion='L1'),
    dict(criterion='L2'),
    dict(criterion='cosine'),
    dict(criterion='smooth_L1'),
    dict(criterion='smooth_L1', beta=0.1),
    dict(criterion='smooth_L1', normalize=False, beta=2.0),
    dict(criterion='L1', normalize=False),
    dict(criterion='L2', normalize=False),
    dict(criterion='smooth_L1', normalize='layer', beta=2.0),
    dict(criterion=dict(cosine=0.5, smooth_L1=0.5), normalize=False),
])
def test_gradient_is_that_of_the_value(options, tokens):
    student, teacher = tokens
    loss = FeatureAlignmentLoss(loss_weight=0.7, **options)
    assert torch.autograd.gradcheck(loss, (student.requires_grad_(), teacher))


def test_gradients_by_hand():
    """Of unnormalised tokens: sign, 2 x, and x / beta or sign; over N C."""
    for options, wanted in (
        (dict(criterion='L1'), [-1, 1, -1, 1]),
        (dict(criterion='L2'), [-2, 2, -2, 4]),
        (dict(criterion='smooth_L1', beta=2.0), [-.5, .5, -.5, 1]),
        (dict(criterion='smooth_L1', beta=0.5), [-1, 1, -1, 1]),
    ):
        student = STUDENT.clone().requires_grad_()
        FeatureAlignmentLoss(
            normalize=False, **options)(student, TEACHER).backward()
        assert student.grad.flatten().tolist() == [w / 4 for w in wanted]


def test_cosine_gradient_by_hand():
    """Of 1 - cos at unit vectors: -(t - cos s), over the tokens."""
    student = torch.tensor([[[.6, .8], [0., 1.]]], requires_grad=True)
    teacher = torch.tensor([[[.8, .6], [1., 0.]]])
    FeatureAlignmentLoss('cosine')(student, teacher).backward()
    wanted = [[.8 - .96 * .6, .6 - .96 * .8], [1, 0]]
    torch.testing.assert_close(student.grad, -torch.tensor([wanted]) / 2)


def test_cosine_is_a_multiple_of_the_squared_distance(tokens):
    torch.testing.assert_close(
        FeatureAlignmentLoss('cosine')(*tokens),
        8 / 2 * FeatureAlignmentLoss('L2')(*tokens))


def test_smooth_l1_is_neither_of_its_limits_by_default():
    """With PyTorch's beta of 1 it would be L2 / 2 on normalised tokens."""
    student, teacher = tokens = torch.nn.functional.normalize(
        torch.randn(2, 4, 1024, generator=torch.Generator().manual_seed(0)),
        dim=-1)
    assert (student - teacher).abs().max() < 1
    torch.testing.assert_close(
        FeatureAlignmentLoss('smooth_L1', beta=1.0)(*tokens),
        FeatureAlignmentLoss('L2')(*tokens) / 2)
    # Normal differences of variance 2 / C: erf(1/2) = 0.52 of them are
    # smaller than 1 / sqrt(C).
    quadratic = (student - teacher).abs() < 1 / 32
    assert quadratic.float().mean().item() == pytest.approx(0.52, abs=0.02)
    # G2SD's beta of 2 on tokens of length sqrt(C) is 2 / sqrt(C) here.
    torch.testing.assert_close(
        FeatureAlignmentLoss(
            'smooth_L1', normalize=False, beta=2.0)(32 * student,
                                                    32 * teacher),
        32 * FeatureAlignmentLoss('smooth_L1', beta=2 / 32)(*tokens))


def test_weight_scales_value_and_gradient():
    gradients = []
    for weight in (1.0, 0.25):
        student = STUDENT.clone().requires_grad_()
        loss = FeatureAlignmentLoss(loss_weight=weight)(student, TEACHER)
        loss.backward()
        gradients.append(student.grad)
    assert loss.item() == pytest.approx(0.25 * 0.6, rel=1e-6)
    torch.testing.assert_close(gradients[1], 0.25 * gradients[0])


def test_normalized_loss_ignores_the_length_of_tokens():
    loss = FeatureAlignmentLoss()
    torch.testing.assert_close(
        loss(7 * STUDENT, TEACHER), loss(STUDENT, 0.1 * TEACHER))


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_is_compared_in_float32(dtype):
    # The squares of 300 overflow float16.
    student = torch.full((1, 1, 4), 300., dtype=dtype)
    teacher = torch.full((1, 1, 4), -300., dtype=dtype)
    loss = FeatureAlignmentLoss()(student, teacher)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(2 * .5, rel=1e-6)


def test_double_precision_is_kept():
    assert FeatureAlignmentLoss()(STUDENT.double(),
                                  TEACHER.double()).dtype == torch.float64


def test_zero_tokens_give_a_finite_gradient():
    student = torch.zeros(1, 2, 2, requires_grad=True)
    FeatureAlignmentLoss()(student, TEACHER).backward()
    assert student.grad.isfinite().all()


def test_shapes_must_be_equal():
    with pytest.raises(ValueError, match=r'\(1, 2, 2\).*\(1, 1, 2\)'):
        FeatureAlignmentLoss()(STUDENT, TEACHER[:, :1])


@pytest.mark.parametrize('options, message', [
    (dict(criterion='l1'),
     r"criterion='l1'.*\['L1', 'L2', 'smooth_L1', 'cosine'\]"),
    (dict(criterion='cosine', normalize=False),
     "normalize=False with criterion='cosine' would change nothing"),
    (dict(criterion=dict(l1=1.0)), r"criterion={'l1': 1.0} does not.*'L1'"),
    (dict(criterion={}), 'criterion={} does not exist'),
    (dict(criterion=['L1']), r"criterion=\['L1'\] does not exist"),
    (dict(criterion=dict(L1=1, L2=0)), "gives 'L2' the weight 0.*above 0"),
    (dict(criterion=dict(L1='1')), "gives 'L1' the weight '1'"),
    (dict(criterion=dict(cosine=1.), normalize=False), 'change nothing'),
    (dict(criterion=dict(L1=1., L2=1.), beta=1.), 'beta=1.*smooth_L1'),
    (dict(cls_weight=1.5), 'cls_weight=1.5.*from 0 to 1'),
    (dict(cls_weight=True), 'cls_weight=True'),
    (dict(criterion='L2', beta=1.0), "beta=1.0 .*'smooth_L1'.*'L2'"),
    (dict(criterion='smooth_L1', beta=0.0), 'beta=0.0 .*above 0.*L1'),
    (dict(criterion='smooth_L1', beta=math.inf), 'beta=inf .*finite'),
    (dict(criterion='smooth_L1', beta='1'), "beta='1' .*finite"),
    (dict(normalize='yes'), "normalize='yes'.*True, False or 'layer'"),
    (dict(normalize=1), 'normalize=1 '),
    (dict(loss_weight=-1.0), 'loss_weight=-1.0.*at least 0'),
    (dict(loss_weight=math.nan), 'loss_weight=nan.*finite'),
])
def test_illegal_values(options, message):
    with pytest.raises(ValueError, match=message):
        FeatureAlignmentLoss(**options)


def test_unknown_option():
    with pytest.raises(TypeError, match="weight=2.0.*loss_weight"):
        FeatureAlignmentLoss(weight=2.0)
