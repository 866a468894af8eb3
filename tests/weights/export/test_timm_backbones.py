"""What a ViT of timm learnt in mmpretrain goes on: to timm by its name, to
mmpretrain's TIMMBackbone as it is, to the others where it is a plain ViT."""
import pytest
import timm
import torch
from mmpretrain.registry import MODELS

from dmae_mm.host import quietly
from dmae_mm.models import TimmTeacher
from dmae_mm.weights import export_checkpoint, read_tensor_file
from tests.toys.export_models import MEAN, STD, refused, run
from tests.toys.models import timm_student
from tests.toys.timm_families import FAMILIES
from tests.toys.timm_students import family_cfg, write_vit


@torch.no_grad()
def tokens_in_timm(model, images):
    """As a MaskedTimmViT returns them."""
    tokens = model.fc_norm(model.forward_features(images))
    cls_token = tokens[:, :int(model.cls_token is not None)]
    return torch.cat([cls_token, tokens[:, model.num_prefix_tokens:]], 1)


def images_for(backbone):
    return torch.randn(
        2, backbone.patch_embed.proj.in_channels, *backbone.img_size)


@pytest.mark.parametrize('family', FAMILIES)
def test_to_timm(tmp_path, family):
    config, checkpoint, model = write_vit(tmp_path, family_cfg(family))
    exported = export_checkpoint(
        config, checkpoint, str(tmp_path / 'out.pth'), 'timm', num_classes=0)
    assert max(exported.differences.values()) == 0
    loaded = run(exported.usage)
    images = images_for(model.backbone)
    with torch.no_grad():
        wanted, = model.backbone(images, mask=None)
    torch.testing.assert_close(
        tokens_in_timm(loaded, images), wanted, rtol=1e-5, atol=1e-5)
    data = timm.data.resolve_model_data_config(loaded)
    assert data['input_size'][1:] == model.backbone.img_size
    for name, values in dict(mean=MEAN, std=STD).items():
        assert data[name] == pytest.approx([value / 255 for value in values])


@pytest.mark.parametrize('family', ['MAE', 'DINOv3', 'DeiT, distilled'])
def test_with_a_classifier_of_zeros(tmp_path, family):
    config, checkpoint, _ = write_vit(tmp_path, family_cfg(family))
    exported = export_checkpoint(
        config, checkpoint, str(tmp_path / 'out.safetensors'), 'timm')
    model = run(exported.usage)
    side = model.patch_embed.img_size[0]
    assert model(torch.randn(1, 3, side, side)).abs().max() == 0
    assert model.num_classes == 1000


def test_the_file_is_a_checkpoint_path(tmp_path):
    """Also in a TIMMBackbone, which asks timm for it."""
    cfg = family_cfg('DINOv2 with registers')
    config, checkpoint, model = write_vit(tmp_path, cfg)
    path = str(tmp_path / 'out.pth')
    export_checkpoint(config, checkpoint, path, 'timm', num_classes=0)
    kwargs = dict(cfg['model_kwargs'], img_size=cfg['img_size'],
                  num_classes=0, checkpoint_path=path)
    images = images_for(model.backbone)
    loaded = timm.create_model(cfg['model_name'], **kwargs).eval()
    with torch.no_grad():
        wanted, = model.backbone(images, mask=None)
        with quietly():
            backbone = MODELS.build(
                dict(type='TIMMBackbone', model_name=cfg['model_name'],
                     **kwargs))
        backbone.eval()
        tokens, = backbone(images)
    torch.testing.assert_close(tokens_in_timm(loaded, images), wanted)
    torch.testing.assert_close(
        torch.cat([tokens[:, :1], tokens[:, 5:]], 1), wanted)


@pytest.mark.parametrize('family', FAMILIES)
def test_timm_backbone_loads_the_training_checkpoint(tmp_path, family):
    """By init_cfg, without any conversion."""
    cfg = family_cfg(family)
    _, checkpoint, model = write_vit(tmp_path, cfg)
    with quietly():
        backbone = MODELS.build(
            dict(
                type='TIMMBackbone',
                model_name=cfg['model_name'],
                img_size=cfg['img_size'],
                init_cfg=dict(
                    type='Pretrained', checkpoint=checkpoint,
                    prefix='backbone.'),
                **cfg['model_kwargs']))
        backbone.init_weights()
    ours, theirs = model.backbone.state_dict(), backbone.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    backbone.eval()
    images = images_for(model.backbone)
    with torch.no_grad():
        wanted, = model.backbone(images, mask=None)
        tokens, = backbone(images)
    if tokens.dim() == 3:  # DeiT's distilled one pools
        num_prefix = model.backbone.num_prefix_tokens
        tokens = torch.cat([tokens[:, :model.backbone.num_extra_tokens],
                            tokens[:, num_prefix:]], 1)
        torch.testing.assert_close(tokens, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('to', ['mmpretrain', 'mmseg'])
def test_a_plain_one_to_the_others(tmp_path, to):
    config, checkpoint, _ = write_vit(tmp_path, timm_student())
    exported = export_checkpoint(
        config, checkpoint, str(tmp_path / 'out.pth'), to)
    assert max(exported.differences.values()) < 1e-5
    names = read_tensor_file(str(tmp_path / 'out.pth')).tensors
    assert any(name.endswith('layers.0.ln1.weight') for name in names)


@pytest.mark.parametrize('to', ['mmpretrain', 'mmseg'])
def test_one_with_registers_not(tmp_path, to):
    cfg = family_cfg('DINOv2 with registers')
    config, checkpoint, _ = write_vit(tmp_path, cfg)
    said = refused(config, checkpoint, tmp_path / 'out.pth', to=to)
    assert 'reg_token' in said and '--to timm can' in said
    assert not (tmp_path / 'out.pth').exists()


def test_other_sizes_and_channels(tmp_path):
    kwargs = dict(patch_size=(8, 4), embed_dim=24, depth=2, num_heads=2)
    for number, family in enumerate(('MAE', 'DINOv3')):
        kwargs['num_heads'] = 3 - number
        folder = tmp_path / family
        folder.mkdir()
        cfg = family_cfg(family, img_size=(16, 32),
                         model_kwargs=dict(kwargs, in_chans=1, patch_size=8))
        config, checkpoint, model = write_vit(folder, cfg)
        exported = export_checkpoint(
            config, checkpoint, str(folder / 'out.pth'), 'timm',
            num_classes=0, img_size=(32, 32))
        loaded = run(exported.usage)
        assert loaded.patch_embed.grid_size == (4, 4)
        model.backbone.timm_model.set_input_size(img_size=(32, 32))
        images = torch.randn(2, 1, 32, 32)
        with torch.no_grad():
            wanted = model.backbone.tokens(images)
        torch.testing.assert_close(tokens_in_timm(loaded, images), wanted)


@pytest.mark.parametrize('family', ['MAE', 'SigLIP', 'DINOv2 with registers',
                                    'Perception Encoder'])
@pytest.mark.parametrize('out_type', ['avg_featmap', 'cls_token'])
def test_a_fine_tuned_classifier(tmp_path, family, out_type):
    if family == 'SigLIP' and out_type == 'cls_token':
        return
    cfg = family_cfg(family, type='TimmViT', out_type=out_type)
    config, checkpoint, model = write_vit(
        tmp_path, cfg,
        head=dict(type='LinearClsHead', num_classes=5, in_channels=32))
    exported = export_checkpoint(
        config, checkpoint, str(tmp_path / 'out.pth'), 'timm')
    assert 'logits' in exported.differences
    images = images_for(model.backbone)
    with torch.no_grad():
        torch.testing.assert_close(
            run(exported.usage)(images), model(images), rtol=1e-5, atol=1e-5)


def test_a_student_teaches(tmp_path):
    """Its checkpoint, and how it normalised, in a TimmTeacher."""
    cfg = family_cfg('DINOv3')
    _, checkpoint, model = write_vit(tmp_path, cfg)
    teacher = TimmTeacher(
        model_name=cfg['model_name'],
        aligned_blocks=[0, 1],
        checkpoint=checkpoint,
        model_kwargs=dict(cfg['model_kwargs'], img_size=cfg['img_size']))
    with quietly():
        teacher.init_weights()
    weights = model.backbone.timm_model.state_dict()
    for name, tensor in teacher.network.state_dict().items():
        assert torch.equal(tensor, weights[name])
