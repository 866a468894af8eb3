"""A HiViT learns from a ViT: the same patches, no CLS, its main stage."""
import copy

import pytest
import torch
from mmpretrain.registry import MODELS
from tests.toys.models import HIVIT_STUDENT, randomize


@pytest.fixture
def cfg(toy_model):
    toy_model['backbone'] = copy.deepcopy(HIVIT_STUDENT)
    toy_model['aligned_layers'] = [(0.75, 3), (2, 1)]
    return toy_model


def build(cfg):
    torch.manual_seed(0)
    model = MODELS.build(cfg)
    model.init_weights()
    randomize(model.teacher.network)
    return model


def test_blocks_are_those_of_the_main_stage(cfg, images):
    model = build(cfg)
    features = []
    main_stage = model.backbone.blocks[-8:]
    main_stage[5].register_forward_hook(
        lambda module, args, output: features.append(output))
    losses = model.loss(images, None)
    assert list(losses) == [
        'loss_recon', 'loss_align_s5_t3', 'loss_align_s2_t1'
    ]
    assert features[0].shape == (3, 4, 24)


def test_patch_tokens_alone_are_aligned(cfg, images):
    """Against the teacher's patches, without its CLS."""
    cfg['aligned_layers'] = [(5, 3)]
    model = build(cfg)
    outputs = {}
    model.backbone.register_forward_hook(
        lambda module, args, output: outputs.update(ids=output[2]))
    model.backbone.blocks[-3].register_forward_hook(
        lambda module, args, output: outputs.update(student=output))
    losses = model.loss(images, None)
    ids_keep = outputs['ids'].argsort(dim=1)[:, :4]
    teacher, = model.teacher(images, ids_keep)
    assert teacher.shape == (3, 5, 32)
    projected = model.distill_neck.projectors[0](outputs['student'])
    normalize = torch.nn.functional.normalize
    distance = normalize(projected, dim=-1) - normalize(teacher[:, 1:], dim=-1)
    torch.testing.assert_close(losses['loss_align_s5_t3'],
                               distance.abs().mean())


def test_both_sides_see_the_same_patches(cfg, images):
    """Pixels that are hidden from the student change no alignment loss."""
    model = build(cfg)
    torch.manual_seed(1)
    before = model.loss(images, None)
    torch.manual_seed(1)
    _, mask, _ = model.backbone(images)
    pixels = mask.view(3, 1, 4, 4).repeat_interleave(8, 2)
    pixels = pixels.repeat_interleave(8, 3)
    torch.manual_seed(1)
    after = model.loss(images + 5 * pixels, None)
    for name in before:
        same = torch.equal(before[name], after[name])
        assert same == ('align' in name), name
    torch.manual_seed(1)
    seen = model.loss(images + 5 * (1 - pixels), None)
    assert not any(torch.equal(before[name], seen[name]) for name in before)


def test_decoder_puts_every_visible_patch_in_its_place(cfg, images):
    """With a decoder of no blocks, a prediction depends on its own token."""
    cfg['neck']['decoder_depth'] = 0
    model = build(cfg)
    randomize(model.neck)
    torch.manual_seed(1)
    latent, mask, ids_restore = model.backbone(images)
    preds = []
    model.neck.register_forward_hook(
        lambda module, args, output: preds.append(output))
    model.reconstruction_loss(images, latent, mask, ids_restore)
    neck = model.neck
    ids_keep = ids_restore.argsort(dim=1)[:, :4]
    for image in range(3):
        tokens = neck.mask_token[0].repeat(16, 1)
        tokens[ids_keep[image]] = neck.decoder_embed(latent[image])
        tokens = tokens + neck.decoder_pos_embed[0, 1:]
        torch.testing.assert_close(preds[0][image],
                                   neck.decoder_pred(neck.ln1(tokens)))


def test_gradients_reach_the_stem(cfg, images):
    model = build(cfg)
    losses = model.loss(images, None)
    losses['loss_align_s5_t3'].backward()
    blocks = model.backbone.blocks
    assert blocks[0].mlp.fc1.weight.grad.abs().sum() > 0
    assert blocks[-3].attn.qkv.weight.grad.abs().sum() > 0  # main block 5
    assert blocks[-2].attn.qkv.weight.grad is None  # behind it


def test_features_of_whole_images(cfg, images):
    feature, = build(cfg).extract_feat(images)
    assert feature.shape == (3, 24, 4, 4)


def test_control_without_teacher_starts_from_the_same_weights(cfg, images):
    model = build(cfg)
    control_cfg = dict(cfg, teacher=None, aligned_layers=[])
    torch.manual_seed(0)
    control = MODELS.build(control_cfg)
    control.init_weights()
    state = model.state_dict()
    for name, tensor in control.state_dict().items():
        assert torch.equal(tensor, state[name]), name
    assert list(control.loss(images, None)) == ['loss_recon']


def test_nothing_to_reconstruct(cfg, images):
    cfg['backbone']['mask_ratio'] = 0.0
    losses = build(cfg).loss(images, None)
    assert losses['loss_recon'] == 0 and losses['loss_align_s5_t3'] > 0


def test_a_hivit_teaches_a_hivit(cfg, images, tmp_path):
    """And its own checkpoint fills it."""
    trained = build(cfg)
    randomize(trained.backbone)
    path = str(tmp_path / 'hivit.pth')
    torch.save(dict(state_dict=trained.state_dict()), path)
    cfg['teacher'] = dict(
        type='MMPretrainTeacher', backbone=HIVIT_STUDENT, checkpoint=path)
    model = MODELS.build(cfg)
    model.init_weights()
    assert len(model.teacher.network.blocks) == 6 + 4  # stem, main to block 3
    wanted = trained.backbone.state_dict()
    for name, tensor in model.teacher.network.state_dict().items():
        assert torch.equal(tensor, wanted[name])
    assert model.loss(images, None)['loss_align_s5_t3'] > 0


@pytest.mark.parametrize('block', [8, -9])
def test_blocks_of_the_stem_cannot_be_aligned(cfg, block):
    cfg['aligned_layers'] = [(block, 3)]
    with pytest.raises(ValueError, match='student has no block.*8 blocks'):
        MODELS.build(cfg)
