import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dmae_mm.models.losses import MaskedFeatureLoss
from tests.toys.golden import assert_golden, read_golden


def test_equals_the_reference():
    """It took the masked patches out before; its loss is their mean."""
    golden, meta = read_golden('g2sd_a')
    shape = (2, 12, 24)  # 12 of 16 patches are masked
    student = golden['student_prediction'].reshape(shape)
    teacher = golden['teacher_decoder_feature'].reshape(shape)
    assert_golden(MaskedFeatureLoss()(student, teacher), golden['loss'])
    # With CLS and the visible patches around them.
    mask = golden['mask']
    rows = [torch.full((2, 17, 24), -5.) for _ in range(2)]
    for row, masked in zip(rows, (student, teacher)):
        row[:, 1:][mask.bool()] = masked.flatten(0, 1)
    assert_golden(
        MaskedFeatureLoss('masked')(*rows, mask), golden['loss'])


# CLS and two patches. The teacher's tokens become (1, -1).
STUDENT = torch.tensor([[[1., -1.], [2., -1.], [1., 3.]]])
TEACHER = torch.tensor([[[4., 2.], [9., 3.], [1., 0.]]])
# Half of the square over 2, but the absolute value minus 1 above 2.
TOKENS = [0, 1 / 4 / 2, (4 - 1) / 2]


@pytest.mark.parametrize('positions, mask, expected', [
    ('all', None, sum(TOKENS) / 3),
    ('all', [[0, 1]], sum(TOKENS) / 3),
    ('masked', [[0, 1]], TOKENS[2]),
    ('masked', [[1, 1]], (TOKENS[1] + TOKENS[2]) / 2),
    ('masked', [[1, 1, 0]], (TOKENS[0] + TOKENS[1]) / 2),  # without CLS
])
def test_by_hand(positions, mask, expected):
    mask = mask and torch.tensor(mask, dtype=torch.float32)
    loss = MaskedFeatureLoss(positions, loss_weight=3.0)
    assert loss(STUDENT, TEACHER, mask).item() == pytest.approx(
        3 * expected, rel=1e-5)


@given(
    batch=st.integers(1, 3), num=st.integers(1, 5),
    positions=st.sampled_from(['all', 'masked']))
@settings(max_examples=30, deadline=None)
def test_losses_of_images_average_to_the_loss(batch, num, positions):
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(2, batch, num + 1, 4, generator=generator).unbind()
    mask = torch.ones(batch, num)
    mask[:, :num // 2] = 0
    loss = MaskedFeatureLoss(positions, loss_weight=0.3)
    images = loss.per_image(*tokens, mask)
    torch.testing.assert_close(images.mean(), loss(*tokens, mask))
    torch.testing.assert_close(
        images[-1], loss(tokens[0][-1:], tokens[1][-1:], mask[-1:]))


def test_gradient_numerically():
    student = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(2, 3, 4, dtype=torch.float64)
    mask = torch.tensor([[1., 0.], [0., 1.]])
    for loss in MaskedFeatureLoss(), MaskedFeatureLoss('masked'):
        assert torch.autograd.gradcheck(loss, (student, teacher, mask))


def test_half_precision_is_compared_in_float32():
    student, teacher = torch.randn(2, 2, 5, 8).half()
    for loss, mask in ((MaskedFeatureLoss(), None),
                       (MaskedFeatureLoss('masked'), torch.ones(2, 4))):
        value = loss(student, teacher, mask)
        assert value.dtype == torch.float32
        torch.testing.assert_close(
            value, loss(student.float(), teacher.float(), mask))


def test_what_it_compares():
    assert (MaskedFeatureLoss.tap, MaskedFeatureLoss.projects,
            MaskedFeatureLoss.tokens) == ('decoder', True, 'shared')


@pytest.mark.parametrize('mask, message', [
    (None, "positions='masked' needs a mask.*3, or one fewer.*got none"),
    (torch.ones(1, 4), r'got \(1, 4\)'),
])
def test_mask_must_fit(mask, message):
    with pytest.raises(ValueError, match=message):
        MaskedFeatureLoss('masked')(STUDENT, TEACHER, mask)


def test_shapes():
    with pytest.raises(ValueError, match='must be equal'):
        MaskedFeatureLoss()(STUDENT, TEACHER[:, :1])


@pytest.mark.parametrize('options, message', [
    (dict(positions='hidden'), r"positions='hidden'.*\['all', 'masked'\]"),
    (dict(loss_weight=-1), 'loss_weight=-1.*at least 0'),
])
def test_illegal_values(options, message):
    with pytest.raises(ValueError, match=message):
        MaskedFeatureLoss(**options)


def test_unknown_option():
    with pytest.raises(TypeError, match='beta=2.*positions'):
        MaskedFeatureLoss(beta=2)
