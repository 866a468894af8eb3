"""Teacher dropping, and UNIC's loss that it weighs."""
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dmae_mm.models.losses import FeatureAlignmentLoss, teacher_dropping
from tests.toys.golden import assert_golden, read_golden


def test_equals_the_reference():
    golden, meta = read_golden('unic_a')
    criterion = FeatureAlignmentLoss(
        meta['weights'], normalize=False, beta=meta['beta'], cls_weight=0.5)
    students = [name for name in golden if name.startswith('student/')]
    for name in students:
        golden[name].requires_grad_()
    losses = []
    for name in meta['teachers']:
        student, teacher = (
            torch.cat([golden[f'{side}/{name}/cls'].unsqueeze(1),
                       golden[f'{side}/{name}/patch']], dim=1)
            for side in ('student', 'teacher'))
        losses.append(criterion.per_image(student, teacher, has_cls=True))
        assert_golden(losses[-1], golden[f'loss_per_image/{name}'])
    # Draws that keep what the reference kept.
    weights = teacher_dropping(
        torch.stack(losses), golden['keep'], meta['dropping'])
    assert_golden(weights, golden['keep'] / golden['keep'].sum())
    loss = (weights * torch.stack(losses)).sum()
    assert_golden(loss, golden['loss'])
    loss.backward()
    for name in students:
        assert_golden(golden[name].grad,
                      golden[name.replace('student/', 'grad/')])


def test_by_hand():
    """Three teachers, two images; the first and the third are the worst."""
    losses = torch.tensor([[5., 1.], [2., 2.], [1., 3.]])
    draws = torch.tensor([[.1, .6], [.4, .4], [.5, .1]])
    keep = torch.tensor([[1., 1.], [0., 0.], [1., 1.]])
    torch.testing.assert_close(
        teacher_dropping(losses, draws, 0.5), keep / 4)


def test_one_of_equal_teachers_stays():
    weights = teacher_dropping(torch.ones(3, 4), torch.zeros(3, 4), 0.5)
    assert ((weights > 0).sum(dim=0) == 1).all()


def test_extreme_probabilities():
    losses, draws = torch.rand(2, 3, 4)
    torch.testing.assert_close(
        teacher_dropping(losses, draws, 0.0), torch.full((3, 4), 1 / 12))
    weights = teacher_dropping(losses, draws, 1.0)
    torch.testing.assert_close((weights * losses).sum(),
                               losses.amax(dim=0).mean())


@given(
    shape=st.tuples(st.integers(1, 4), st.integers(1, 5)),
    probability=st.floats(0, 1), seed=st.integers(0, 99))
@settings(max_examples=50, deadline=None)
def test_what_always_holds(shape, probability, seed):
    losses, draws = torch.rand(
        2, *shape, generator=torch.Generator().manual_seed(seed)).unbind()
    weights = teacher_dropping(losses.requires_grad_(), draws, probability)
    assert not weights.requires_grad
    assert weights.sum().item() == pytest.approx(1, rel=1e-5)
    assert (weights.gather(0, losses.argmax(dim=0)[None]) > 0).all()
    assert len(set(weights.flatten().tolist()) - {0}) == 1
