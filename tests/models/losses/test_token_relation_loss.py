import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dmae_mm.models.losses import TokenRelationLoss
from tests.toys.golden import assert_golden, read_golden


def test_equals_the_reference():
    golden, meta = read_golden('token_relation_a')
    student = golden['student_tokens'].requires_grad_()
    loss = TokenRelationLoss(**meta)(student, golden['teacher_tokens'])
    loss.backward()
    assert_golden(loss, golden['loss'])
    assert_golden(student.grad, golden['grad_student_tokens'])


# Two patches: the student's are orthogonal, the teacher's the same.
STUDENT = torch.tensor([[[3., 0.], [0., 2.]]])
TEACHER = torch.tensor([[[1., 1., 1.], [2., 2., 2.]]])


@pytest.mark.parametrize('temperature', [1.0, 0.5])
def test_by_hand(temperature):
    """Rows (p, 1 - p) with p of cosines 1 and 0, against (1/2, 1/2)."""
    p = 1 / (1 + math.exp(-1 / temperature))
    wanted = math.log(.5) - .5 * math.log(p * (1 - p))
    loss = TokenRelationLoss(temperature, loss_weight=3.0)
    assert loss(STUDENT, TEACHER).item() == pytest.approx(3 * wanted, rel=1e-5)


@given(
    batch=st.integers(1, 3), num=st.integers(1, 5), width=st.integers(1, 4),
    temperature=st.floats(0.05, 2))
@settings(max_examples=30, deadline=None)
def test_losses_of_images_average_to_the_loss(batch, num, width, temperature):
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(batch, num, 6, generator=generator)
    teacher = torch.randn(batch, num, width, generator=generator)
    loss = TokenRelationLoss(temperature, loss_weight=0.3)
    images = loss.per_image(student, teacher)
    torch.testing.assert_close(images.mean(), loss(student, teacher))
    torch.testing.assert_close(images[-1], loss(student[-1:], teacher[-1:]))
    torch.testing.assert_close(  # lengths and rotations do not matter
        loss(student, 3 * teacher.flip(-1)), loss(student, teacher))
    assert loss(teacher, teacher).item() == pytest.approx(0, abs=1e-6)


def test_gradient_numerically():
    student = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(2, 3, 5, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda s: TokenRelationLoss(0.5)(s, teacher), student)


def test_low_temperature_stays_finite():
    student = STUDENT.clone().requires_grad_()
    loss = TokenRelationLoss(1e-4)(student, TEACHER)
    loss.backward()
    assert loss.isfinite() and student.grad.isfinite().all()


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_is_compared_in_float32(dtype):
    student, teacher = torch.randn(2, 2, 5, 8).to(dtype)
    wanted = TokenRelationLoss()(student.float(), teacher.float())
    with torch.autocast('cpu', torch.bfloat16):
        loss = TokenRelationLoss()(student, teacher)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, wanted)


def test_what_it_compares():
    assert (TokenRelationLoss.tap, TokenRelationLoss.projects,
            TokenRelationLoss.tokens) == ('block', False, 'patches')


@pytest.mark.parametrize('teacher', [TEACHER[:, :1], TEACHER[0]])
def test_shapes(teacher):
    with pytest.raises(ValueError, match='features have shape.*as many'):
        TokenRelationLoss()(STUDENT, teacher)


@pytest.mark.parametrize('options, message', [
    (dict(temperature=0), 'temperature=0 is not a finite number above 0'),
    (dict(temperature='1'), "temperature='1'"),
    (dict(loss_weight=math.inf), 'loss_weight=inf.*at least 0'),
])
def test_illegal_values(options, message):
    with pytest.raises(ValueError, match=message):
        TokenRelationLoss(**options)


def test_unknown_option():
    with pytest.raises(TypeError, match='tau=2.*temperature'):
        TokenRelationLoss(tau=2)
