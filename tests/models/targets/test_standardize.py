import copy
import math

import pytest
import torch

from dmae_mm.models import FeatureAlignmentLoss, Standardize
from dmae_mm.models.losses import teacher_dropping
from tests.toys.golden import assert_golden, read_golden


def test_equals_the_reference():
    """Three steps of two teachers: targets, losses, dropping, gradients.

    The file's statistics behind each step are those behind the last.
    """
    golden, meta = read_golden('unic_standardise_a')
    criterion = FeatureAlignmentLoss(
        dict(cosine=meta['lam_cos'], smooth_L1=meta['lam_sl1']),
        normalize=False, beta=meta['smooth_l1_beta'], cls_weight=0.5)
    names = meta['teacher_row_order']
    targets = {
        name: Standardize(width)
        for name, width in meta['teacher_dims'].items()
    }

    def tokens(kind, name):
        key = f'step{step}.{kind}.{name}'
        return torch.cat([golden[f'{key}.cls'].unsqueeze(1),
                          golden[f'{key}.patch']], dim=1)

    for step, momentum in enumerate(meta['ema_momenta']):
        students, losses = [], []
        for name in names:
            targets[name].momentum = momentum
            target = targets[name](tokens('teacher_raw', name), has_cls=True)
            assert_golden(target, tokens('teacher_std', name))
            students.append(tokens('student', name).requires_grad_())
            losses.append(
                criterion.per_image(students[-1], target, has_cls=True))
        losses = torch.stack(losses)
        assert_golden(losses, golden[f'step{step}.loss_per_teacher_per_image'])
        assert_golden(losses.mean(), golden[f'step{step}.loss_no_dropping'])
        # With two teachers there is one draw for each image.
        weights = teacher_dropping(
            losses, golden[f'step{step}.uniform_draws'].expand(2, -1),
            meta['t_drop_prob'])
        loss = (weights * losses).sum()
        assert_golden(loss, golden[f'step{step}.loss'])
        loss.backward()
        for name, student in zip(names, students):
            assert_golden(student.grad, tokens('grad_student', name))
    for name, target in targets.items():
        for row, part in enumerate(('cls', 'patch')):
            for ours in ('mean', 'std'):
                assert_golden(
                    getattr(target, ours)[row],
                    golden[f'step2.ema_{ours}_after.{name}.{part}'].flatten())


# Two images of CLS and two patches, one channel.
TOKENS = torch.tensor([[1., 2., 4.], [5., 6., 8.]]).unsqueeze(-1)


def test_by_hand():
    target = Standardize(1, momentum=0.25)
    # First the statistics 0 and 1.
    torch.testing.assert_close(target(TOKENS, True), TOKENS / (1 + 1e-6))
    # CLS: mean 3, variance 8. Patches: 5, (9 + 1 + 1 + 9) / 3.
    mean = torch.tensor([[.25 * 3], [.25 * 5]])
    std = torch.tensor([[.75 + .25 * 8**.5], [.75 + .25 * (20 / 3)**.5]])
    torch.testing.assert_close(target.mean, mean)
    torch.testing.assert_close(target.std, std)
    rows = torch.tensor([0, 1, 1])
    torch.testing.assert_close(
        target(TOKENS, True), (TOKENS - mean[rows]) / std[rows])


def test_without_cls():
    target = Standardize(1, momentum=1.0)
    target(TOKENS, False)
    torch.testing.assert_close(target.mean, torch.tensor([[0.], [26 / 6]]))
    assert target.std[0] == 1
    torch.testing.assert_close(target.std[1, 0], TOKENS.std() + 1e-6)


def test_evaluation_changes_nothing():
    target = Standardize(1)
    target(TOKENS, True)
    target.eval()
    before = copy.deepcopy(target.state_dict())
    first, second = target(TOKENS, True), target(TOKENS, True)
    assert torch.equal(first, second)
    assert all(
        torch.equal(before[name], now)
        for name, now in target.state_dict().items())


def test_momentum_follows_a_cosine():
    target = Standardize(1, momentum=dict(start=1.0, end=0.2, steps=4))
    used = []
    for _ in range(6):
        used.append(float(target._momentum()))
        target(TOKENS, True)
    cosine = [math.cos(math.pi * step / 4) for step in range(5)]
    wanted = [.2 + .8 * (1 + value) / 2 for value in cosine] + [.2]
    assert used == pytest.approx(wanted, abs=1e-6)
    assert used[0] == 1 and used[4] == pytest.approx(.2)


def test_first_step_of_the_default_forgets_the_start():
    target = Standardize(1)
    assert torch.equal(target(TOKENS, True), TOKENS / (1 + 1e-6))
    torch.testing.assert_close(target.mean, torch.tensor([[3.], [5.]]))


def test_a_large_mean_does_not_hide_the_deviation():
    tokens = 1e4 + torch.randn(
        4, 9, 8, generator=torch.Generator().manual_seed(0))
    target = Standardize(8, momentum=1.0)
    target(tokens, False)
    torch.testing.assert_close(
        target.std[1].double(), tokens.double().flatten(0, 1).std(0) + 1e-6,
        rtol=1e-5, atol=0)


def test_one_image_has_no_deviation_of_cls():
    target = Standardize(1, momentum=1.0)
    target(TOKENS[:1], True)
    torch.testing.assert_close(target.mean, torch.tensor([[0.], [3.]]))
    torch.testing.assert_close(target.std, torch.tensor([[1.], [2**.5]]))


def test_state_dict_resumes_to_the_bit():
    torch.manual_seed(0)
    batches = torch.randn(6, 3, 5, 4)
    schedule = dict(start=1.0, end=0.01, steps=5)
    whole, first, second = (Standardize(4, schedule) for _ in range(3))
    wanted = [whole(batch, True) for batch in batches]
    for batch in batches[:3]:
        first(batch, True)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for batch, target in zip(batches[3:], wanted[3:]):
        assert torch.equal(second(batch, True), target)
    assert torch.equal(second.std, whole.std)


def test_nothing_learns_by_gradient():
    tokens = TOKENS.clone().requires_grad_()
    target = Standardize(1)
    assert not target(tokens, True).requires_grad
    assert not list(target.parameters())


@pytest.mark.parametrize('momentum', [
    0.1, dict(start=1.0, end=0.1, steps=3)])
def test_compiles_to_one_graph(momentum):
    target, other = Standardize(1, momentum), Standardize(1, momentum)
    compiled = torch.compile(target, backend='eager', fullgraph=True)
    for _ in range(3):
        assert torch.equal(compiled(TOKENS, True), other(TOKENS, True))
    assert torch.equal(target.std, other.std)
    assert target.num_updates == 3


def test_half_precision_is_standardised_in_float32():
    target = Standardize(1)
    assert target(TOKENS.bfloat16(), True).dtype == torch.float32


@pytest.mark.parametrize('momentum, message', [
    (0, 'momentum=0: 0 is not a number above 0 and up to 1'),
    (1.5, 'momentum=1.5: 1.5'),
    (None, 'momentum=None: None'),
    (dict(start=1.0, end=0.1), 'neither a number nor.*start, end and steps'),
    (dict(start=1.0, end=0.1, steps=0), 'steps, an int of at least 1'),
    (dict(start=1.0, end=0, steps=5), 'momentum={.*}: 0 is not a number'),
])
def test_illegal_values(momentum, message):
    with pytest.raises(ValueError, match=message):
        Standardize(4, momentum=momentum)


def test_unknown_option():
    with pytest.raises(TypeError, match='decay=2.*momentum'):
        Standardize(4, decay=2)
