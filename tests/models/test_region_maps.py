"""Maps and patches in the regions of a mask."""
import pytest
import torch

from dmae_mm.models.feature_maps import on_grid
from dmae_mm.models.region_maps import patches_of_units, to_map, visible_tokens
from dmae_mm.models.student_input import StudentInput


def test_tokens_are_row_by_row():
    feature = torch.arange(9.).view(1, 1, 3, 3)
    assert torch.equal(to_map(on_grid(feature, (3, 3))), feature)


@pytest.mark.parametrize('units, grid', [
    ((7, 7), (14, 14)), ((2, 3), (4, 9)), ((2, 2), (2, 2)), ((3, 2), (3, 8))])
def test_patches_of_units_against_brute_force(units, grid):
    """Each patch belongs to the unit in which its pixels lie."""
    number = units[0] * units[1]
    ids = torch.stack([torch.randperm(number)[:3] for _ in range(4)])
    found = patches_of_units(ids, units, grid)
    height, width = grid[0] // units[0], grid[1] // units[1]
    for row, patches in zip(ids.tolist(), found.tolist()):
        owners = [(p // grid[1] // height) * units[1] + p % grid[1] // width
                  for p in patches]
        assert owners == [u for u in row for _ in range(height * width)]
        assert len(set(patches)) == len(patches)


def test_visible_tokens_of_a_fine_map_are_means_of_their_own_cells():
    feature = torch.randn(2, 5, 16, 16)
    ids = torch.tensor([[3, 0], [1, 2]])
    tokens = visible_tokens(feature, ids, (2, 2), (4, 4))
    assert tokens.shape == (2, 8, 5)
    for image in range(2):
        for k, patch in enumerate(
                patches_of_units(ids, (2, 2), (4, 4))[image].tolist()):
            row, column = patch // 4 * 4, patch % 4 * 4
            cells = feature[image, :, row:row + 4, column:column + 4]
            torch.testing.assert_close(tokens[image, k], cells.mean((1, 2)))


def test_hidden_cells_do_not_count_in_an_interpolation():
    feature = torch.tensor([[[[1., 9.], [5., 100.]]]], requires_grad=True)
    ids = torch.tensor([[0, 1, 2]])
    tokens = visible_tokens(feature, ids, (2, 2), (4, 4))[0, :, 0]
    # Lower right patch of unit 0: 9/16 of itself, 3/16 of both neighbours.
    torch.testing.assert_close(tokens[3], torch.tensor((9 + 27 + 15) / 15))
    # Upper left patch: itself alone.
    torch.testing.assert_close(tokens[0], torch.tensor(1.))
    tokens.sum().backward()
    assert feature.grad[0, 0, 1, 1] == 0 and feature.grad.isfinite().all()
    alone = visible_tokens(feature, torch.tensor([[3]]), (2, 2), (4, 4))
    torch.testing.assert_close(alone, torch.full((1, 4, 1), 100.))


def test_tokens_of_a_square_map_are_taken_as_the_map():
    feature = torch.randn(2, 3, 4, 4)
    ids = torch.tensor([[1], [2]])
    assert torch.equal(
        visible_tokens(on_grid(feature, (4, 4)), ids, (2, 2), (4, 4)),
        visible_tokens(feature, ids, (2, 2), (4, 4)))


@pytest.mark.parametrize('size, units, own, patch, wanted', [
    (224, 7, 14, 16, 14),  # as the student's image
    (192, 6, 14, 16, 12),  # 192 px too
    (224, 7, 37, 14, 14),  # 196 px
    (224, 7, 28, 8, 28),
    (192, 6, 24, 16, 24),  # its own 384 px
    (64, 4, 7, 32, 4),  # a patch is larger than a region
])
def test_a_region_is_whole_patches_of_the_teacher(size, units, own, patch,
                                                  wanted):
    images = StudentInput((size, size), None, 3, units=(units, units))
    assert images.teacher_grid((own, own), (patch, patch)) == (wanted, wanted)


def test_without_regions_the_teacher_keeps_its_grid_or_takes_the_students():
    assert StudentInput(None, None, 3).teacher_grid((5, 6), (8, 8)) == (5, 6)
    assert StudentInput((32, 32), (4, 4), 3).teacher_grid(
        (5, 5), (8, 8)) == (4, 4)
