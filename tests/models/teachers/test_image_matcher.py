"""Images of a student become its teacher's."""
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from mmengine.logging import MMLogger

from dmae_mm.models.student_input import StudentInput
from dmae_mm.models.teachers.image_matcher import ImageMatcher

IMAGENET = dict(mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))
HALF = dict(mean=(127.5, ) * 3, std=(127.5, ) * 3)


def student(img_size=(32, 32), **normalisation):
    return StudentInput(img_size, (4, 4), 3, **normalisation)


@given(
    pixels=st.lists(st.floats(0, 255, width=32), min_size=3, max_size=3),
    means=st.lists(st.floats(0, 255), min_size=6, max_size=6),
    stds=st.lists(st.floats(1, 255), min_size=6, max_size=6))
def test_normalisation(pixels, means, stds):
    pixels = torch.tensor(pixels)
    (ours, theirs), (by, its) = (torch.tensor(v).view(2, 3)
                                 for v in (means, stds))
    matcher = ImageMatcher(
        student(mean=means[:3], std=stds[:3]), (32, 32), means[3:], stds[3:])
    images = ((pixels - ours) / by).view(1, 3, 1, 1).expand(2, 3, 32, 32)
    converted = matcher(images)
    assert converted.shape == images.shape
    torch.testing.assert_close(
        converted[0, :, 5, 7], (pixels - theirs) / its, rtol=1e-4, atol=1e-3)


def test_nothing_to_do_costs_nothing():
    images = torch.randn(2, 3, 32, 32)
    for matcher in (
            ImageMatcher(None, (32, 32), **HALF),
            ImageMatcher(student(**HALF), (32, 32)),
            ImageMatcher(student(**HALF), (32, 32), **HALF),
            # 255 * 0.485 is not quite 123.675.
            ImageMatcher(student(**IMAGENET), (32, 32),
                         [255 * v for v in (0.485, 0.456, 0.406)],
                         [255 * v for v in (0.229, 0.224, 0.225)])):
        assert matcher(images) is images


def test_resizing_is_antialiased_and_of_the_whole_image():
    images = torch.randn(2, 3, 32, 32)
    matcher = ImageMatcher(student(), (28, 28))
    assert torch.equal(
        matcher(images),
        F.interpolate(images, size=(28, 28), mode='bicubic', antialias=True))
    ramp = torch.linspace(-1, 1, 32).expand(1, 3, 32, 32)
    # Regions correspond: the middle of the second of four columns of patches
    # is at 3/8 of the width in both.
    torch.testing.assert_close(
        matcher(ramp)[0, 0, 0, 10], ramp[0, 0, 0, 11:13].mean(), atol=.01,
        rtol=0)


def test_channels_are_picked_and_normalised_as_the_teachers():
    """Channels 4, 0, 0 of five, each with a normalisation of its own."""
    ours = dict(mean=(1., 2., 3., 4., 5.), std=(10., 20., 30., 40., 50.))
    matcher = ImageMatcher(
        StudentInput((32, 32), (4, 4), 5, **ours), (32, 32),
        mean=[100., 101., 102.], std=[2., 4., 5.], channels=(4, 0, 0))
    pixels = torch.arange(5.) * 40  # 0, 40, 80, 120, 160
    images = (pixels - torch.tensor(ours['mean'])) / torch.tensor(ours['std'])
    converted = matcher(images.view(1, 5, 1, 1).expand(2, 5, 32, 32))
    assert converted.shape == (2, 3, 32, 32)
    torch.testing.assert_close(
        converted[1, :, 3, 3], torch.tensor([30., -25.25, -20.4]))


def test_it_moves_with_the_model_and_is_in_no_checkpoint():
    matcher = ImageMatcher(student(**HALF), (32, 32), **IMAGENET)
    assert matcher.to('meta').scale.is_meta and matcher.shift.is_meta
    assert not matcher.state_dict()


def test_an_unknown_normalisation_is_said(monkeypatch):
    MMLogger.get_instance('a logger of its own')  # of no other test's level
    said = []
    monkeypatch.setattr(MMLogger, 'callHandlers',
                        lambda self, record: said.append(record))
    images = torch.randn(1, 3, 32, 32)
    assert ImageMatcher(student(), (32, 32), **HALF)(images) is images
    record, = said
    assert record.levelname == 'WARNING'
    assert 'does not normalise' in record.getMessage()
    assert 'mean=[127.5, 127.5, 127.5]' in record.getMessage()


@pytest.mark.parametrize('mean, std, message', [
    ([1.] * 3, None, 'give both or none'),
    (None, [1.] * 3, 'give both or none'),
    ([100.], [50.], 'one number for each of the 3 channels'),
    ([100.] * 3, [50., 0., 50.], 'std above 0'),
    ([float('nan')] * 3, [50.] * 3, 'must be finite'),
    ([.485, .456, .406], [.229, .224, .225], 'multiply by 255'),
])
def test_illegal_normalisation(mean, std, message):
    with pytest.raises(ValueError, match=message):
        ImageMatcher(student(**HALF), (32, 32), mean, std)


def test_how_far_hidden_pixels_shine_into_visible_patches():
    """From 224 to 196 px: into the outermost 2 pixels of a patch of 14."""
    matcher = ImageMatcher(
        StudentInput((224, 224), (14, 14), 3), (196, 196), None, None)
    images = torch.zeros(1, 3, 224, 224)
    hidden = torch.rand(1, 3, 224, 224)
    hidden[..., 80:96, 80:96] = 0  # all but one patch of 16 px
    changed = (matcher(hidden) - matcher(images)).abs().amax((0, 1)) > 0
    patch = changed[70:84, 70:84]  # the same patch, of 14 px
    inner = torch.zeros(14, 14, dtype=torch.bool)
    inner[2:12, 2:12] = True
    assert not patch[inner].any() and patch[~inner].all()
