"""A masked autoencoder as teacher: its decoder's features."""
import copy

import pytest
import torch
from mmpretrain.registry import MODELS
from torch.utils.flop_counter import FlopCounterMode

from dmae_mm.models.student_input import StudentInput
from dmae_mm.models.tokens import first_ids
from tests.toys.checkpoints import encoder_only, golden_weights
from tests.toys.models import TEACHER, randomize

BACKBONE = dict(type='MAEViT', arch=TEACHER, img_size=32, patch_size=8)
NECK = dict(
    type='MAEPretrainDecoder',
    decoder_embed_dim=16,
    decoder_depth=2,
    decoder_num_heads=2)


def build(blocks=(1, ), **options):
    return MODELS.build(
        copy.deepcopy(
            dict(
                dict(
                    type='MAETeacher',
                    backbone=BACKBONE,
                    neck=NECK,
                    aligned_blocks=blocks,
                    allow_random=True), **options)))


def whole_mae(mask_ratio=0.75, **neck):
    """mmpretrain's own, of the same architecture."""
    model = MODELS.build(
        copy.deepcopy(
            dict(
                type='MAE',
                backbone=dict(BACKBONE, mask_ratio=mask_ratio),
                neck=dict(NECK, num_patches=16, patch_size=8, embed_dim=32)
                | neck,
                head=dict(
                    type='MAEPretrainHead',
                    patch_size=8,
                    loss=dict(type='PixelReconstructionLoss',
                              criterion='L2')))))
    randomize(model)
    return model.eval()


def saved(path, tensors, **meta):
    torch.save(dict(state_dict=tensors, meta=meta), path)
    return str(path)


def test_features_are_those_of_the_whole_autoencoder(tmp_path, images):
    """Whose own mask decides what is visible."""
    whole = whole_mae()
    teacher = build((0, 1, 0), checkpoint=saved(tmp_path / 'mae.pth',
                                                whole.state_dict()),
                    allow_random=False)
    wanted = []
    for block in whole.neck.decoder_blocks:
        block.register_forward_hook(
            lambda module, args, output: wanted.append(output))
    latent, _, ids_restore = whole.backbone(images)
    whole.neck(latent, ids_restore)
    features = teacher(images, first_ids(ids_restore, 4), ids_restore)
    assert (teacher.embed_dims, teacher.num_layers) == (16, 2)
    assert teacher.num_prefix_tokens == 1 and teacher.has_cls_token
    for ours, its in zip(features, (wanted[0], wanted[1], wanted[0])):
        assert ours.shape == (3, 17, 16) and not ours.requires_grad
        torch.testing.assert_close(ours, its)


def test_all_patches_without_ids(images):
    teacher = build()
    randomize(teacher.network)
    ids = torch.arange(16).expand(3, -1)
    torch.testing.assert_close(teacher(images), teacher(images, ids, ids))
    with pytest.raises(ValueError, match='needs ids_restore'):
        teacher(images, ids)


def test_decoder_stops_behind_the_last_aligned_block(images):
    teacher = build((0, ))
    ids = torch.arange(16).expand(3, -1)
    with FlopCounterMode(display=False) as counter:
        teacher(images, ids[:, :4], ids)

    def block(tokens, width):  # products of tokens are not counted on a CPU
        return 3 * 2 * 12 * tokens * width**2

    assert counter.get_total_flops() == (
        3 * 2 * 16 * 3 * 64 * 32 + 6 * block(5, 32) +
        3 * 2 * 5 * 32 * 16 + block(17, 16))
    assert not any('pred' in name or 'neck.ln1' in name
                   for name in teacher.network.state_dict())


def test_file_of_fair(tmp_path, images):
    """Encoder and decoder of one file, whole; or nothing is loaded."""
    weights = golden_weights('teacher')
    path = tmp_path / 'mae.pth'
    torch.save(dict(model=weights), path)
    teacher = build(checkpoint=str(path), allow_random=False)
    teacher.init_weights()
    own = teacher.network.state_dict()
    for name, its in {
            'backbone.ln1.weight': 'norm.weight',
            'backbone.layers.5.ffn.layers.1.bias': 'blocks.5.mlp.fc2.bias',
            'neck.mask_token': 'mask_token',
            'neck.decoder_blocks.1.ln2.bias': 'decoder_blocks.1.norm2.bias'
    }.items():
        torch.testing.assert_close(own[name], weights[its])
    assert teacher(images)[0].isfinite().all()


@pytest.mark.parametrize('change, match', [
    (encoder_only, 'has no decoder.*visualize.*MMPretrainTeacher'),
    (lambda w: {k: v for k, v in w.items() if k != 'mask_token'},
     'neck.mask_token is missing'),
    (lambda w: {k: v for k, v in w.items() if k != 'norm.weight'},
     'backbone.ln1.weight is missing'),
    (lambda w: w | {'surplus': torch.ones(1)}, "'surplus'|surplus"),
    (lambda w: w | {k.replace('_blocks.1.', '_blocks.2.'): v
                    for k, v in w.items() if 'decoder_blocks.1.' in k},
     'has 3 blocks instead of 2 in neck'),
    (lambda w: {k: v for k, v in w.items() if 'blocks.5.' not in k},
     'has 5 blocks instead of 6 in backbone'),
    (lambda w: w | {'mask_token': torch.full((1, 1, 16), torch.nan)},
     'neck.mask_token has values that are not finite'),
])
def test_files_that_do_not_fit(tmp_path, change, match):
    path = tmp_path / 'mae.pth'
    torch.save(dict(model=change(golden_weights('teacher'))), path)
    teacher = build(checkpoint=str(path), allow_random=False)
    before = teacher.fingerprint()
    with pytest.raises(ValueError, match=match):
        teacher.init_weights()
    assert teacher.fingerprint() == before and not teacher.is_loaded


@pytest.mark.parametrize('options, match', [
    (dict(backbone=dict(BACKBONE, type='VisionTransformer')),
     'teacher.backbone: type=.VisionTransformer.*MAEViT'),
    (dict(neck=dict(NECK, type='CrossAttentionDecoder')),
     'teacher.neck: type=.CrossAttentionDecoder.*MAEPretrainDecoder'),
    (dict(neck=dict(NECK, embed_dim=24)),
     'teacher.neck: embed_dim=24 instead of 32.*Leave it out'),
    (dict(blocks=[2]), 'the teacher has no block 2. It has 2 blocks'),
    (dict(allow_random=False), 'checkpoint=None'),
])
def test_configs_that_do_not_fit(options, match):
    with pytest.raises(ValueError, match=match):
        build(**options)


def test_another_grid(tmp_path):
    """Both positions are resampled, as mmpretrain's own loading does it."""
    whole = whole_mae()
    path = saved(tmp_path / 'mae.pth', whole.state_dict())
    teacher = build(
        checkpoint=path,
        allow_random=False,
        student_input=StudentInput((24, 24), (3, 3), 3))
    teacher.init_weights()
    assert teacher.patch_grid == (3, 3) and teacher.img_size == (24, 24)
    own = teacher.network.state_dict()
    stock = MODELS.build(dict(BACKBONE, img_size=24))
    stock.load_state_dict({
        name[len('backbone.'):]: tensor
        for name, tensor in whole.state_dict().items()
        if name.startswith('backbone.')
    })
    torch.testing.assert_close(own['backbone.pos_embed'], stock.pos_embed)
    assert own['neck.decoder_pos_embed'].shape == (1, 10, 16)
    assert torch.equal(own['neck.decoder_pos_embed'][:, 0],
                       whole.neck.decoder_pos_embed[:, 0])
    assert teacher(torch.randn(2, 3, 24, 24))[0].shape == (2, 10, 16)
