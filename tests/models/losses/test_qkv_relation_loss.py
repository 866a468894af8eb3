import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from dmae_mm.models.losses import QKVRelationLoss
from tests.toys.golden import assert_golden, read_golden


def test_equals_the_reference():
    """Behind the first norm and the qkv layer of a block on each side."""
    golden, meta = read_golden('tinymim_relations_a')
    leaves = {
        name: tensor.requires_grad_()
        for name, tensor in golden.items()
        if name.startswith('student/') or name == 'student_tokens'
    }

    def qkv(side):
        tokens = golden[f'{side}_tokens']
        norm, layer = ((golden[f'{side}/{part}.weight'],
                        golden[f'{side}/{part}.bias'])
                       for part in ('norm1', 'attn.qkv'))
        return F.linear(
            F.layer_norm(tokens, tokens.shape[-1:], *norm,
                         meta['layer_norm_eps']), *layer)

    loss = QKVRelationLoss(num_heads=meta['num_heads'])(
        qkv('student'), qkv('teacher'))
    loss.backward()
    assert_golden(loss, golden['loss_qk'] + golden['loss_vv'])
    assert_golden(leaves['student_tokens'].grad,
                  golden['grad_student_tokens'])
    largest = max(golden[name].abs().max() for name in golden
                  if name.startswith('grad/'))
    for name, leaf in leaves.items():
        if name != 'student_tokens':
            # That of the keys' bias is 0 but for rounding.
            torch.testing.assert_close(
                leaf.grad, golden['grad' + name[len('student'):]], rtol=1e-5,
                atol=1e-6 * largest.item())


def divergence(p, q):
    """KL((p, 1 - p) || (q, 1 - q))."""
    return p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def test_by_hand():
    """Two tokens, one head; the student is 1 wide, the teacher 4.

    q, k and v of the two tokens are 1, 0 and 0, 2 and 1, 0 of the student;
    each channel of the teacher has 0, 1 and 1, 0 and 2, 0.
    """
    student = torch.tensor([[[1., 0., 1.], [0., 2., 0.]]])
    teacher = torch.tensor([[[0., 1., 2.], [1., 0., 0.]]]).repeat_interleave(
        4, dim=-1)
    # Scaled products, student: q k^T = [[0, 2], [0, 0]] and
    # v v^T = [[1, 0], [0, 0]]; teacher, 4 x over 2: [[0, 0], [2, 0]] and
    # [[8, 0], [0, 0]].
    qk = divergence(.5, sigmoid(-2)) + divergence(sigmoid(2), .5)
    vv = divergence(sigmoid(8), sigmoid(1))
    loss = QKVRelationLoss(num_heads=1, loss_weight=3.0)
    assert loss(student, teacher).item() == pytest.approx(
        3 * (qk + vv) / 2, rel=1e-5)


def test_heads_are_slices_of_the_channels():
    """With two heads, the mean of the losses of the halves."""
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 5, 3, 8), torch.randn(2, 5, 3, 6)
    halves = [
        QKVRelationLoss(num_heads=1)(
            student.chunk(2, -1)[i].flatten(2),
            teacher.chunk(2, -1)[i].flatten(2)) for i in range(2)
    ]
    torch.testing.assert_close(
        QKVRelationLoss(num_heads=2)(student.flatten(2), teacher.flatten(2)),
        sum(halves) / 2)


@given(
    batch=st.integers(1, 3), num=st.integers(1, 5), heads=st.integers(1, 3),
    seed=st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_losses_of_images_average_to_the_loss(batch, num, heads, seed):
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (
        torch.randn(batch, num, 3 * heads * d, generator=generator)
        for d in (2, 4))
    loss = QKVRelationLoss(num_heads=heads, loss_weight=0.3)
    images = loss.per_image(student, teacher)
    assert (images >= -1e-6).all()
    torch.testing.assert_close(images.mean(), loss(student, teacher))
    torch.testing.assert_close(images[-1], loss(student[-1:], teacher[-1:]))
    assert loss(teacher, teacher).item() == pytest.approx(0, abs=1e-6)


def test_gradient_numerically():
    student = torch.randn(2, 3, 12, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(2, 3, 24, dtype=torch.float64)
    loss = QKVRelationLoss(num_heads=2)
    assert torch.autograd.gradcheck(lambda s: loss(s, teacher), student)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_is_compared_in_float32(dtype):
    # Products of 300 overflow float16, and underflow behind a softmax.
    student = (torch.randn(1, 4, 12) * 300).to(dtype).requires_grad_()
    teacher = (torch.randn(1, 4, 12) * 300).to(dtype)
    loss = QKVRelationLoss(num_heads=2)
    wanted = loss(student.float(), teacher.float())
    with torch.autocast('cpu', torch.bfloat16):
        value = loss(student, teacher)
    assert value.dtype == torch.float32 and value.isfinite()
    torch.testing.assert_close(value, wanted)
    value.backward()
    assert student.grad.isfinite().all()


def test_heads_of_the_teacher():
    loss = QKVRelationLoss()
    loss.match_heads(student_dims=24, teacher_dims=48, teacher_num_heads=4)
    assert loss.num_heads == 4
    assert loss(torch.randn(1, 2, 72), torch.randn(1, 2, 144)).isfinite()
    given = QKVRelationLoss(num_heads=2)
    given.match_heads(student_dims=10, teacher_dims=48, teacher_num_heads=4)
    assert given.num_heads == 2


@pytest.mark.parametrize('num_heads', [None, 12])
def test_heads_must_divide_both_widths(num_heads):
    with pytest.raises(
            ValueError, match='num_heads=12 .*student, 200.*teacher, 768'):
        QKVRelationLoss(num_heads=num_heads).match_heads(200, 768, 12)
    with pytest.raises(
            ValueError, match='num_heads=12 .*student, 24.*teacher, 20.*both'):
        QKVRelationLoss(num_heads=12)(
            torch.randn(1, 2, 72), torch.randn(1, 2, 60))


def test_heads_must_be_known():
    with pytest.raises(ValueError, match='num_heads=None.*Give num_heads'):
        QKVRelationLoss()(torch.randn(1, 2, 72), torch.randn(1, 2, 72))


def test_what_it_compares():
    assert (QKVRelationLoss.tap, QKVRelationLoss.projects,
            QKVRelationLoss.tokens) == ('qkv', False, 'shared')


def test_shapes():
    with pytest.raises(ValueError, match='features have shape.*as many'):
        QKVRelationLoss(num_heads=1)(
            torch.randn(1, 2, 3), torch.randn(1, 3, 3))


@pytest.mark.parametrize('options, message', [
    (dict(num_heads=0), 'num_heads=0 is not an int of at least 1'),
    (dict(num_heads=2.0), 'num_heads=2.0'),
    (dict(num_heads=True), 'num_heads=True'),
    (dict(loss_weight=-1), 'loss_weight=-1.*at least 0'),
])
def test_illegal_values(options, message):
    with pytest.raises(ValueError, match=message):
        QKVRelationLoss(**options)


def test_unknown_option():
    with pytest.raises(TypeError, match='heads=2.*num_heads'):
        QKVRelationLoss(heads=2)
