"""The light decoder: what it predicts, from what, and the loss of it."""
import pytest
import torch
import torch.nn as nn
from mmpretrain.registry import MODELS

from dmae_mm.models.necks import CrossAttentionDecoder
from dmae_mm.models.necks.cross_attention_decoder import CrossAttentionBlock

NORM = dict(type='LN', eps=1e-6)


def model(mask_ratio: float = 0.75, **neck) -> nn.Module:
    """16 patches of 4 px; the student is 8 wide, the decoder 12."""
    torch.manual_seed(0)
    built = MODELS.build(
        dict(
            type='DMAE',
            backbone=dict(
                type='MAEViT',
                arch=dict(
                    embed_dims=8,
                    num_layers=2,
                    num_heads=2,
                    feedforward_channels=16),
                img_size=16,
                patch_size=4,
                mask_ratio=mask_ratio),
            neck=dict(
                dict(
                    type='CrossAttentionDecoder',
                    num_patches=16,
                    patch_size=4,
                    embed_dim=8,
                    decoder_embed_dim=12,
                    decoder_depth=2,
                    decoder_num_heads=3), **neck),
            head=dict(
                type='MAEPretrainHead',
                patch_size=4,
                loss=dict(type='PixelReconstructionLoss', criterion='L2'))))
    for parameter in built.parameters():
        nn.init.normal_(parameter, std=0.3)
    built.neck.decoder_pos_embed.data[:, 0] = 0
    return built


IMAGES = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def test_block_is_pytorchs_attention():
    torch.manual_seed(0)
    block = CrossAttentionBlock(12, 3, 24, NORM)
    attention = nn.MultiheadAttention(12, 3, batch_first=True)
    attention.load_state_dict({
        'in_proj_weight': torch.cat([block.q.weight, block.kv.weight]),
        'in_proj_bias': torch.cat([block.q.bias, block.kv.bias]),
        'out_proj.weight': block.proj.weight,
        'out_proj.bias': block.proj.bias
    })
    x, memory = torch.randn(2, 5, 12), torch.randn(2, 7, 12)
    found, _ = attention(block.ln1(x), memory, memory)
    first, second = block.ffn.layers[0][0], block.ffn.layers[1]
    wanted = x + found
    wanted = wanted + second(nn.functional.gelu(first(block.ln2(wanted))))
    torch.testing.assert_close(block(x, memory), wanted)


def test_what_is_predicted():
    network = model(predict_ratio=0.4)
    latent, mask, ids_restore = network.backbone(IMAGES)
    pred, ids = network.neck(latent, ids_restore)
    assert pred.shape == (3, 6, 48) and ids.shape == (3, 6)  # int(16 * 0.4)
    for chosen, masked in zip(ids, mask):
        assert len(set(chosen.tolist())) == 6
        assert masked[chosen].tolist() == [1] * 6
    # Another choice each time.
    chosen = {
        tuple(network.neck(*network.backbone(IMAGES)[::2])[1][0].tolist())
        for _ in range(5)
    }
    assert len(chosen) == 5

    # Queries do not see each other: all 12 masked patches at once give the
    # same predictions.
    every, all_ids = network.eval().neck(latent, ids_restore)
    assert every.shape == (3, 12, 48)
    assert all_ids[:, :6].equal(ids)
    torch.testing.assert_close(every[:, :6], pred)
    assert sorted(all_ids[0].tolist()) == mask[0].nonzero().flatten().tolist()


def test_positions_belong_to_their_patches():
    """Another order of the visible tokens changes nothing."""
    network = model(mask_ratio=0.5).eval()
    latent, _, ids_restore = network.backbone(IMAGES[:1])
    pred, ids = network.neck(latent, ids_restore)
    order = ids_restore.argsort(dim=1)
    swap = torch.tensor([3, 0, 1, 2, 7, 6, 5, 4])
    order = torch.cat([order[:, swap], order[:, 8:]], 1)
    latent = torch.cat([latent[:, :1], latent[:, 1:][:, swap]], 1)
    again, same_ids = network.neck(latent, order.argsort(dim=1))
    assert same_ids.equal(ids)
    torch.testing.assert_close(again, pred)
    # But the position of a token counts.
    network.neck.decoder_pos_embed.data[0, 1 + order[0, 0]].neg_()
    moved, _ = network.neck(latent, order.argsort(dim=1))
    assert (moved - pred).abs().max() > 1e-3


def test_loss_by_hand_and_gradients():
    network = model(predict_ratio=0.25)
    latent, mask, ids_restore = network.backbone(IMAGES)
    loss = network.reconstruction_loss(IMAGES, latent, mask,
                                       ids_restore)['loss_recon']
    pred, ids = network.neck(latent, ids_restore)
    by_hand = []
    for image, patches, values in zip(IMAGES, ids, pred):
        for patch, value in zip(patches.tolist(), values):
            top, left = 4 * (patch // 4), 4 * (patch % 4)
            pixels = image[:, top:top + 4, left:left + 4]  # channels last
            by_hand.append(
                (pixels.permute(1, 2, 0).flatten() - value).square().mean())
    assert len(by_hand) == 3 * 4
    torch.testing.assert_close(loss, torch.stack(by_hand).mean())

    network.loss(IMAGES, None)['loss_recon'].backward()
    without = [
        name for name, parameter in network.named_parameters()
        if parameter.requires_grad and parameter.grad is None
    ]
    assert without == []


def test_all_masked_patches_is_maes_loss():
    """The mean over what is masked, by the stock head."""
    network = model(predict_ratio=0.75)
    latent, mask, ids_restore = network.backbone(IMAGES)
    loss = network.reconstruction_loss(IMAGES, latent, mask,
                                       ids_restore)['loss_recon']
    pred, ids = network.neck(latent, ids_restore)
    full = torch.zeros(3, 16, 48).scatter(1, ids[..., None].expand_as(pred),
                                          pred)
    torch.testing.assert_close(loss, network.head.loss(full, IMAGES, mask))


@pytest.mark.parametrize('ratio, message', [
    (0, 'neck: predict_ratio=0 is not a number above 0 and below 1'),
    (1.0, 'neck: predict_ratio=1.0 is not a number'),
    (True, 'neck: predict_ratio=True is not a number'),
    ('0.25', "neck: predict_ratio='0.25' is not a number"),
    (0.06, 'predicts none of the 16 patches. It must be at least 0.0625'),
    (0.8125, 'predicts 13 patches, but backbone: mask_ratio=0.75 masks only '
     '12 of 16. It must be at most 0.75'),
])
def test_refused(ratio, message):
    with pytest.raises(ValueError, match=message):
        model(predict_ratio=ratio)


def test_unknown_option():
    with pytest.raises(TypeError, match='CrossAttentionDecoder has no option '
                       'depth=2'):
        CrossAttentionDecoder(depth=2)
