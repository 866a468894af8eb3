"""Nothing is exported from models and checkpoints that do not fit."""
import pytest
import timm
import torch

from tests.toys.export_models import (BACKBONES, TOY, build, refused, state_of,
                                      write)

TOY_TIMM = dict(img_size=32, patch_size=8, embed_dim=24, depth=1, num_heads=2)


@pytest.mark.parametrize('kwargs, message', [
    (dict(reg_tokens=2), 'reg_token. Expected names'),
    (dict(qk_norm=True), 'blocks.0.attn.q_norm.weight'),
    (dict(act_layer='relu'), 'activation ReLU()'),
    (dict(norm_layer='rmsnorm'), 'norms RmsNorm'),
    (dict(global_pool='max'), "global_pool='max'"),
    (dict(pos_embed='none'), "pos_embed='none'"),
    (dict(block_fn=timm.models.vision_transformer.ParallelThingsBlock),
     'block_fn=ParallelThingsBlock'),
])
def test_models_of_timm_that_cannot_be_exported(tmp_path, kwargs, message):
    kwargs = dict(TOY_TIMM, **kwargs)
    model = timm.create_model('vit_base_patch16_224', **kwargs)
    source, dst = tmp_path / 'source.pth', tmp_path / 'dst.pth'
    torch.save(model.state_dict(), source)
    assert message in refused(
        'vit_base_patch16_224', source, dst, 'mmpretrain', timm_kwargs=kwargs)
    assert not dst.exists()


@pytest.mark.filterwarnings('ignore:The `use_layer_scale`:UserWarning')
@pytest.mark.parametrize('cfg, message', [
    (dict(type='ResNet', depth=18), 'The backbone ResNet cannot be exported. '
     'Possible are MAEViT, VisionTransformer, DeiT3.'),
    (dict(type='Nonsense'), 'model.backbone of'),
    (dict(TOY, type='MAEViT', arch='nonsense'), 'Arch nonsense is not in'),
    (dict(TOY, type='VisionTransformer', out_type='avg_featmap'),
     "timm's VisionTransformer cannot express final_norm=True together"),
    (dict(TOY, type='DeiT3', out_type='avg_featmap'), "'avg_featmap', for"),
    (dict(TOY, type='VisionTransformer', patch_cfg=dict(stride=4)),
     'VisionTransformer cannot be exported with patch_cfg.'),
    (dict(TOY, type='VisionTransformer', norm_cfg=dict(type='BN1d')),
     'norms BatchNorm1d'),
    (dict(
        TOY, type='VisionTransformer',
        layer_cfgs=dict(act_cfg=dict(type='ReLU'))), 'activation ReLU()'),
    (dict(
        TOY, type='VisionTransformer',
        layer_cfgs=dict(ffn_type='swiglu_fused')), 'an FFN other than two'),
    (dict(TOY, type='VisionTransformer', img_size=36), 'no multiple of'),
])
def test_backbones_that_cannot_be_exported(tmp_path, cfg, message):
    config, checkpoint, _ = write(tmp_path, BACKBONES['VisionTransformer'])
    (tmp_path / 'config.py').write_text(f'model = dict(backbone={cfg!r})')
    if 'final_norm' in message:
        torch.save(build(cfg).state_dict(), checkpoint)
    dst = tmp_path / 'dst.pth'
    assert message in refused(config, checkpoint, dst, 'timm')
    assert not dst.exists()


def change(**tensors):
    return lambda state: {
        name: tensor
        for name, tensor in dict(state, **tensors).items()
        if tensor is not None
    }


@pytest.mark.parametrize('edit, message', [
    (change(**{'backbone.layers.2.ln1.bias': None}),
     'layers.2.ln1.bias is missing.'),
    (change(**{'backbone.layers.4.ln1.bias': torch.ones(24)}),
     'layers.4.ln1.bias is unknown.'),
    (change(**{'backbone.pos_embed': torch.ones(1, 5, 24)}),
     'pos_embed has shape (1, 5, 24) instead of (1, 17, 24).'),
    (change(**{'backbone.ln1.bias': torch.full((24, ), float('nan'))}),
     'ln1.bias has values that are not finite'),
    (change(**{'backbone.ln1.bias': torch.ones(24, dtype=torch.int32)}),
     'ln1.bias has values of type torch.int32'),
    (lambda state: {f'neck.{name}': t for name, t in state.items()},
     'there is no encoder in it, but only a decoder'),
    (lambda state: {'blocks.0.norm1.weight': torch.ones(24)},
     "does not have mmpretrain's names"),
])
def test_checkpoints_that_do_not_fit(tmp_path, edit, message):
    config, checkpoint, _ = write(tmp_path, BACKBONES['MAEViT'])
    torch.save(edit(state_of(checkpoint)), checkpoint)
    before = sorted(tmp_path.rglob('*'))
    error = refused(config, checkpoint, tmp_path / 'new' / 'dst.pth', 'timm')
    assert checkpoint in error and message in error
    assert sorted(tmp_path.rglob('*')) == before


def test_checkpoint_of_another_architecture(tmp_path):
    config, checkpoint, _ = write(tmp_path, BACKBONES['MAEViT'])
    dst = tmp_path / 'dst.pth'
    error = refused(
        config,
        checkpoint,
        dst,
        'timm',
        cfg_options={'model.backbone.arch.num_layers': 3})
    assert 'layers.3.ln1.weight is unknown' in error
    assert 'and 7 more' in error
    assert 'does not fit' in refused('vit_tiny_patch16_224', checkpoint, dst,
                                     'mmpretrain')
    assert not dst.exists()


@pytest.mark.parametrize('text, message', [
    ('model = (', 'cannot be read: SyntaxError'),
    ('lr = 1', 'has no model.backbone'),
])
def test_configs_that_do_not_fit(tmp_path, text, message):
    config, checkpoint, _ = write(tmp_path, BACKBONES['MAEViT'])
    (tmp_path / 'config.py').write_text(text)
    assert message in refused(config, checkpoint, tmp_path / 'dst.pth', 'timm')


@pytest.mark.parametrize('name, kwargs, message', [
    ('no.py', {},
     'no.py is neither a config file nor the name of a model in timm'),
    ('resnet18', {}, 'A ResNet cannot be exported'),
    ('vit_tiny_patch16_224', dict(nonsense=1),
     "keyword argument 'nonsense'"),
])
def test_names_that_do_not_fit(tmp_path, name, kwargs, message):
    _, checkpoint, _ = write(tmp_path, BACKBONES['MAEViT'])
    assert message in refused(
        name, checkpoint, tmp_path / 'dst.pth', 'mmseg', timm_kwargs=kwargs)
