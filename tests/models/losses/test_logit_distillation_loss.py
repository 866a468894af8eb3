import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dmae_mm.models.losses import LogitDistillationLoss

# Two images, two classes. With T = 1 the probabilities of the teacher are
# (3/4, 1/4) and (1/2, 1/2), of the student (1/2, 1/2) and (1/5, 4/5). With
# T = 2 they are sqrt(3) : 1 and 1 : 1, and 1 : 1 and 1 : 2.
LOG = math.log
TEACHER = torch.tensor([[LOG(3.), 0.], [0., 0.]])
STUDENT = torch.tensor([[0., 0.], [0., LOG(4.)]])
P = math.sqrt(3) / (math.sqrt(3) + 1)
BY_HAND = {
    # 3/4 log(3/2) + 1/4 log(1/2) = 0.130812; log(5/4) = 0.223144
    1.0: (0.75 * LOG(1.5) + 0.25 * LOG(0.5) + LOG(1.25)) / 2,
    # 4 times: P log(2 P) + (1 - P) log(2 (1 - P)); log(9/8) / 2
    2.0:
    4 * (P * LOG(2 * P) + (1 - P) * LOG(2 * (1 - P)) + LOG(9 / 8) / 2) / 2,
}


def test_soft_by_hand():
    assert BY_HAND[1.0] == pytest.approx((0.130812 + 0.223144) / 2, abs=1e-6)
    for temperature, wanted in BY_HAND.items():
        loss = LogitDistillationLoss(temperature=temperature)
        assert loss(STUDENT, TEACHER).item() == pytest.approx(wanted, rel=1e-5)


def test_hard_by_hand():
    """The teacher says class 0 and 1, with probabilities 1/2 and 4/5."""
    teacher = torch.tensor([[1e-3, 0.], [-9., 5.]])
    loss = LogitDistillationLoss(mode='hard', loss_weight=3.0)
    wanted = 3 * (LOG(2) + LOG(5 / 4)) / 2
    assert loss(STUDENT, teacher).item() == pytest.approx(wanted, rel=1e-6)
    logits = torch.randn(6, 9, generator=torch.Generator().manual_seed(0))
    other = torch.randn(6, 9, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(
        LogitDistillationLoss(mode='hard')(logits, other),
        torch.nn.functional.cross_entropy(logits, other.argmax(1)))


@given(
    temperature=st.floats(0.2, 20), weight=st.floats(0, 5),
    seed=st.integers(0, 1000))
def test_gradient_by_hand(temperature, weight, seed):
    """w T (softmax(s / T) - softmax(t / T)) / B."""
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (
        torch.randn(3, 4, generator=generator, dtype=torch.float64)
        for _ in range(2))
    student.requires_grad_()
    loss = LogitDistillationLoss(temperature=temperature, loss_weight=weight)
    loss(student, teacher).backward()
    ours, its = ((logits.detach() / temperature).softmax(1)
                 for logits in (student, teacher))
    torch.testing.assert_close(student.grad,
                               weight * temperature * (ours - its) / 3)


@pytest.mark.parametrize('options', [
    dict(), dict(temperature=3.0, loss_weight=0.3), dict(mode='hard')])
def test_gradient_numerically(options):
    generator = torch.Generator().manual_seed(2)
    student, teacher = (
        torch.randn(3, 4, generator=generator, dtype=torch.float64)
        for _ in range(2))
    assert torch.autograd.gradcheck(
        lambda s: LogitDistillationLoss(**options)(s, teacher),
        student.requires_grad_())


def test_limit_of_high_temperature():
    """Half the mean squared distance of centred logits (Hinton et al.)."""
    generator = torch.Generator().manual_seed(3)
    student, teacher = (
        torch.randn(5, 7, generator=generator, dtype=torch.float64)
        for _ in range(2))
    difference = (student - student.mean(1, keepdim=True)) - (
        teacher - teacher.mean(1, keepdim=True))
    wanted = difference.square().sum() / (2 * 7 * 5)
    loss = LogitDistillationLoss(temperature=1e4)(student, teacher)
    torch.testing.assert_close(loss, wanted, rtol=1e-3, atol=0)


def test_equal_logits_cost_nothing():
    loss = LogitDistillationLoss(temperature=2.0)
    assert loss(STUDENT, STUDENT + 5).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize('mode', ['soft', 'hard'])
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_is_compared_in_float32(mode, dtype):
    student, teacher = (logits.to(dtype) for logits in (STUDENT, TEACHER))
    loss = LogitDistillationLoss(mode=mode)
    assert loss(student, teacher).dtype == torch.float32
    torch.testing.assert_close(
        loss(student, teacher), loss(student.float(), teacher.float()))


def test_double_precision_is_kept():
    loss = LogitDistillationLoss()(STUDENT.double(), TEACHER)
    assert loss.dtype == torch.float64


@pytest.mark.parametrize('student, teacher', [
    (STUDENT, TEACHER[:1]), (STUDENT[0], TEACHER[0]),
    (STUDENT[None], TEACHER[None])])
def test_shapes(student, teacher):
    with pytest.raises(ValueError, match='logits have shape.*images, classes'):
        LogitDistillationLoss()(student, teacher)


@pytest.mark.parametrize('options, message', [
    (dict(mode='Soft'), r"mode='Soft'.*\['soft', 'hard'\]"),
    (dict(temperature=0), 'temperature=0 is not a finite number above 0'),
    (dict(temperature=math.inf), 'temperature=inf'),
    (dict(temperature=True), 'temperature=True'),
    (dict(mode='hard', temperature=2.0), "temperature=2.0.*'hard'.*Remove"),
    (dict(loss_weight=-1), 'loss_weight=-1.*at least 0'),
    (dict(loss_weight='1'), "loss_weight='1'"),
])
def test_illegal_values(options, message):
    with pytest.raises(ValueError, match=message):
        LogitDistillationLoss(**options)


def test_unknown_option():
    with pytest.raises(TypeError, match='tau=2.*temperature'):
        LogitDistillationLoss(tau=2)
