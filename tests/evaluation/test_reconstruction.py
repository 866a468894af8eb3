"""Pixels that a masked autoencoder predicts, and similarities with a teacher.

They are compared with what the model's own parts say, called one by one.
"""
import copy

import numpy as np
import pytest
import torch
import torch.nn as nn
from mmpretrain.models.utils import SelfSupDataPreprocessor
from mmpretrain.registry import MODELS

from dmae_mm.evaluation.pictures import GAP, TITLE, draw_reconstructions
from dmae_mm.evaluation.reconstruction import (HIDDEN, NOT_FINITE,
                                               Reconstruction, reconstruct)
from tests.toys.models import (HIVIT_STUDENT, LIGHT, TOY_MODEL, randomize,
                               timm_student, two_teachers)

RGB = dict(
    type='SelfSupDataPreprocessor',
    mean=[120., 110., 100.],
    std=[58., 57., 56.],
    to_rgb=True)
BGR = dict(RGB, to_rgb=False)
def build(**parts) -> nn.Module:
    """A toy model with weights large enough to be seen in the pixels."""
    cfg = copy.deepcopy(dict(TOY_MODEL, data_preprocessor=RGB))
    cfg.update(copy.deepcopy(parts))
    torch.manual_seed(0)
    model = MODELS.build(cfg)
    model.init_weights()
    randomize(model)
    if model.teacher is not None:
        randomize(model.teacher.network)
    return model


def photos(number: int = 2, channels: int = 3) -> list:
    generator = torch.Generator().manual_seed(1)
    return [
        torch.randint(
            0, 256, (channels, 32, 32), generator=generator).to(torch.uint8)
        for _ in range(number)
    ]


def patches(image: np.ndarray) -> np.ndarray:
    """(16 patches, 8, 8, 3) of (32, 32, 3)."""
    return image.reshape(4, 8, 4, 8, 3).transpose(0, 2, 1, 3, 4).reshape(
        16, 8, 8, 3)


def hidden(found: Reconstruction) -> np.ndarray:
    """Which of the 16 patches."""
    return (patches(found.masked) == HIDDEN).all(axis=(1, 2, 3))


@pytest.mark.parametrize('preprocessor', [
    RGB, BGR, dict(type='SelfSupDataPreprocessor'),
    dict(type='SelfSupDataPreprocessor', mean=[90.], std=[30.])
])
def test_original_and_visible_patches_are_the_images_own(preprocessor):
    model = build(data_preprocessor=preprocessor)
    for image, found in zip(photos(), reconstruct(model, photos())):
        original = image.permute(1, 2, 0).flip(-1).numpy()  # RGB
        assert np.array_equal(found.original, original)
        assert hidden(found).sum() == 12
        assert (found.num_visible, found.num_patches) == (4, 16)
        for shown in (found.masked, found.reconstructed):
            assert np.array_equal(
                patches(shown)[~hidden(found)],
                patches(original)[~hidden(found)])


@pytest.mark.parametrize('norm_pix', [False, True])
@pytest.mark.parametrize('neck', [TOY_MODEL['neck'], LIGHT])
@pytest.mark.parametrize('preprocessor', [RGB, BGR])
def test_a_perfect_prediction_is_the_original(norm_pix, neck, preprocessor):
    """The pixels undo whatever the target of the loss was made with."""
    model = build(
        head=dict(TOY_MODEL['head'], norm_pix=norm_pix),
        neck=neck,
        data_preprocessor=preprocessor)

    def perfect(module, args, output):
        target = model.head.construct_target(seen['images'])
        if isinstance(output, tuple):
            ids = output[1]
            return target.gather(
                1, ids[..., None].expand(-1, -1, target.shape[-1])), ids
        return target

    seen = {}
    model.backbone.register_forward_pre_hook(
        lambda module, args: seen.update(images=args[0]))
    model.neck.register_forward_hook(perfect)
    found, _ = reconstruct(model, photos())
    assert np.array_equal(found.reconstructed, found.original)
    assert found.norm_pix == norm_pix


def test_hidden_patches_are_what_the_decoder_says(monkeypatch):
    model = build()
    model.neck.decoder_pred.weight.data /= 10
    image, = photos(1)
    found, = reconstruct(model, [image], seed=5)

    generator = torch.Generator().manual_seed(5)
    noise = torch.rand(1, 16, generator=generator)
    monkeypatch.setattr(torch, 'rand', lambda *args, **kwargs: noise)
    model.eval()
    with torch.no_grad():
        inputs = (image.flip(0) - torch.tensor(RGB['mean'])[:, None, None]
                  ) / torch.tensor(RGB['std'])[:, None, None]
        latent, mask, ids_restore = model.backbone(inputs[None])
        pred = model.neck(latent, ids_restore)[0].view(16, 8, 8, 3)
    pixels = (pred * torch.tensor(RGB['std']) +
              torch.tensor(RGB['mean'])).round().clamp(0, 255).numpy()
    assert (mask[0].numpy() == hidden(found)).all()
    shown = patches(found.reconstructed)[hidden(found)]
    assert np.abs(shown - pixels[hidden(found)]).max() <= 1  # of rounding
    assert 0 < shown.min() < shown.max() < 255


@pytest.mark.parametrize('backbone', [
    HIVIT_STUDENT, timm_student(
        model_name='vit_base_patch16_siglip_224',
        model_kwargs=dict(
            patch_size=8, embed_dim=24, depth=8, num_heads=2,
            reg_tokens=2))], ids=['HiViT', 'timm'])
def test_similarity_is_that_of_the_loss(monkeypatch, backbone):
    """Without CLS, the cosine loss is the mean over visible patches."""
    model = build(
        backbone=backbone,
        aligned_layers=[(0.75, 3), (2, 1)],
        distill_loss=dict(type='FeatureAlignmentLoss', criterion='cosine'))
    image, = photos(1)
    found, = reconstruct(model, [image])
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(1, 16, generator=generator)
    monkeypatch.setattr(torch, 'rand', lambda *args, **kwargs: noise)
    inputs = model.data_preprocessor(
        dict(inputs=image[None], data_samples=None))['inputs']
    losses = model.eval()(inputs, None, mode='loss')
    assert list(found.similarity) == ['s5_t3', 's2_t1']
    for name, values in found.similarity.items():
        assert np.array_equal(
            np.isnan(values).ravel(), hidden(found)), name
        assert 1 - np.nanmean(values) == pytest.approx(
            losses[f'loss_align_{name}'].item(), abs=1e-6)


def test_similarity_of_several_teachers():
    """One of which sees more patches, or fewer than are shown now."""
    parts = two_teachers(teacher_dropping=0.5)
    model = build(**parts, teacher=None, aligned_layers=[])
    for ratio, number in ((0.75, 4), (0.25, 12)):
        model.backbone.mask_ratio = ratio
        found, = reconstruct(model, photos(1))
        assert list(found.similarity) == ['dino_s3_t3', 'mae_s1_t1',
                                          'mae_s2_t3']
        for values in found.similarity.values():
            assert (~np.isnan(values)).sum() == number
            assert np.array_equal(np.isnan(values).ravel(), hidden(found))


@pytest.mark.parametrize('kind', ['TokenRelationLoss', 'QKVRelationLoss'])
def test_relations_have_no_map(kind):
    model = build(distill_loss=dict(type=kind))
    assert reconstruct(model, photos(1))[0].similarity == {}


def test_similarity_lies_where_its_patch_lies():
    """A teacher that agrees with the student on one patch and no other."""
    model = build()
    image, = photos(1)
    found, = reconstruct(model, [image])
    visible = np.flatnonzero(~hidden(found))
    forward = model.teacher.forward

    def agrees(images, ids_keep):
        feature, = forward(images, ids_keep)
        token = 1 + (ids_keep[0] == visible[2]).nonzero().item()
        feature = -projected['tokens']
        feature[:, token] *= -1
        return feature,

    projected = {}
    model.backbone.layers[2].register_forward_hook(
        lambda module, args, output: projected.update(
            tokens=model.distill_neck.projectors[0](output)))
    model.teacher.forward = agrees
    values = reconstruct(model, [image])[0].similarity['s2_t3'].ravel()
    assert values[visible] == pytest.approx([-1, -1, 1, -1])


def test_masks_are_fixed():
    """By the seed and the place, whatever the company and the ratio."""
    model = build()
    state = torch.get_rng_state()
    three = [hidden(found) for found in reconstruct(model, photos(3), seed=7)]
    assert torch.equal(torch.get_rng_state(), state)
    assert not (three[0] == three[1]).all()
    for index, image in enumerate(photos(3)):
        found, = reconstruct(model, [image], seed=7 + index)
        assert (hidden(found) == three[index]).all()
    model.backbone.mask_ratio = 0.9
    more = hidden(reconstruct(model, photos(1), seed=7)[0])
    assert more.sum() == 15 and (more >= three[0]).all()


def test_the_model_is_left_as_it_was():
    model = build(neck=LIGHT)
    model.backbone.layers[1].eval()
    modes = [module.training for module in model.modules()]
    before = copy.deepcopy(model.state_dict())
    hooks = [len(module._forward_hooks) + len(module._forward_pre_hooks)
             for module in model.modules()]
    found = reconstruct(model, photos())
    assert [module.training for module in model.modules()] == modes
    assert hooks == [
        len(module._forward_hooks) + len(module._forward_pre_hooks)
        for module in model.modules()
    ]
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert all(p.grad is None for p in model.parameters())
    # A training step would predict 4 of the 12 hidden patches.
    predicted = (patches(found[0].reconstructed) != HIDDEN).any(
        axis=(1, 2, 3))
    assert predicted.all()


def test_without_teacher():
    """Our plain MAE and mmpretrain's own."""
    model = build(teacher=None, aligned_layers=[])
    assert reconstruct(model, photos())[1].similarity == {}
    cfg = {name: TOY_MODEL[name] for name in ('backbone', 'neck', 'head')}
    model = MODELS.build(
        dict(cfg, type='MAE', data_preprocessor=copy.deepcopy(RGB)))
    assert reconstruct(model, photos())[0].similarity == {}


def test_grey_images():
    model = build(
        backbone=dict(
            TOY_MODEL['backbone'], patch_cfg=dict(in_channels=1)),
        neck=dict(TOY_MODEL['neck'], in_chans=1),
        head=dict(TOY_MODEL['head'], in_channels=1),
        teacher=None,
        aligned_layers=[],
        data_preprocessor=dict(
            type='SelfSupDataPreprocessor', mean=[100.], std=[50.]))
    image, = photos(1, channels=1)
    found, = reconstruct(model, [image])
    for channel in range(3):
        assert np.array_equal(found.original[..., channel], image[0].numpy())


def test_values_that_are_not_finite_are_magenta():
    model = build()
    model.neck.decoder_pred.bias.data[:] = float('nan')
    found, = reconstruct(model, photos(1))
    shown = patches(found.reconstructed)
    assert (shown[hidden(found)] == NOT_FINITE).all()
    assert (shown[~hidden(found)] == patches(
        found.original)[~hidden(found)]).all()


class Brighter(SelfSupDataPreprocessor):

    def forward(self, data, training=False):
        data = super().forward(data, training)
        return dict(data, inputs=data['inputs'] + 0.1)


class OtherMask(nn.Module):
    """A backbone that does not draw its mask by ``torch.rand``."""

    def forward(self, images):
        mask = (torch.arange(16) >= 4).float()[None]
        return torch.zeros(1, 5, 24), mask, torch.arange(16)[None]


@pytest.mark.parametrize('parts, pairs', [
    (dict(distill_loss=dict(type='QKVRelationLoss')), []),
    (dict(distill_loss=dict(type='TokenRelationLoss')), []),
    (dict(teacher_mask_ratio=0.5,
          generator=dict(type='FeatureGenerationNeck')), ['s2_t3']),
])
def test_pairs_of_other_objectives(parts, pairs):
    """Relations are no tokens that are alike."""
    found = reconstruct(build(**parts), photos(1))[0]
    assert list(found.similarity) == pairs


def test_refusals():
    with pytest.raises(ValueError, match='model.neck is None, but pixels'):
        reconstruct(build(neck=None, head=None, aligned_layers=[(-1, 3)]), [])
    model = build()
    model.data_preprocessor = Brighter(
        **{name: value for name, value in RGB.items() if name != 'type'})
    with pytest.raises(ValueError, match='Brighter, does something else'):
        reconstruct(model, photos())
    model = build(teacher=None, aligned_layers=[])
    model.backbone.forward = OtherMask().forward
    with pytest.raises(ValueError, match='a MAEViT, does not draw its mask'):
        reconstruct(model, photos())
    model.head = nn.Linear(1, 1)
    with pytest.raises(ValueError,
                       match='model.head is a Linear.*MAEPretrainHead'):
        reconstruct(model, photos())


def test_picture_shows_each_pixel():
    """Masked, reconstructed, original and map, 7 x 7 pixels a pixel."""
    rows = [[one] for one in reconstruct(build(), photos())]
    picture = draw_reconstructions(rows, 'a note')
    size = 7 * 32
    for i, (found, ) in enumerate(rows):
        for j, image in enumerate(
            (found.masked, found.reconstructed, found.original)):
            top = TITLE + i * (TITLE + size + GAP)
            left = GAP + j * (size + GAP)
            shown = picture[top:top + size, left:left + size]
            wanted = np.kron(image, np.ones((7, 7, 1), np.uint8))
            inside = (slice(3, -3), slice(3, -3))  # of a thin frame
            assert np.array_equal(shown[inside], wanted[inside]), (i, j)
        left += size + GAP
        shown = picture[top:top + size, left:left + size]
        blank = (patches(shown[3::7, 3::7]) == 255).all(axis=(1, 2, 3))
        assert np.array_equal(blank, hidden(found))
