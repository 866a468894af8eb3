import math

import pytest
import torch

from dmae_mm.models import FeatureAlignmentLoss

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
])
def test_by_hand(criterion, normalize, expected):
    loss = FeatureAlignmentLoss(criterion, normalize)(STUDENT, TEACHER)
    assert loss.item() == pytest.approx(expected, rel=1e-6)


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
    (dict(criterion='l1'), r"criterion='l1'.*\['L1', 'L2'\]"),
    (dict(normalize='yes'), "normalize='yes'.*True or False"),
    (dict(loss_weight=-1.0), 'loss_weight=-1.0.*at least 0'),
    (dict(loss_weight=math.nan), 'loss_weight=nan.*finite'),
])
def test_illegal_values(options, message):
    with pytest.raises(ValueError, match=message):
        FeatureAlignmentLoss(**options)


def test_unknown_option():
    with pytest.raises(TypeError, match="weight=2.0.*loss_weight"):
        FeatureAlignmentLoss(weight=2.0)
