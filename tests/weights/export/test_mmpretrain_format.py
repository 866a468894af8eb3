"""mmpretrain computes the same from what is exported."""
import pytest
import safetensors.torch
import timm
import torch
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import DefaultScope
from mmpretrain.registry import MODELS

from dmae_mm.weights import export_checkpoint

from tests.toys.export_models import (BACKBONES, TOY, assert_equal, refused,
                                      state_of, write)


@pytest.mark.parametrize('ending', ['pth', 'safetensors'])
def test_training_checkpoint_is_stripped_to_its_backbone(tmp_path, ending):
    config, checkpoint, backbone = write(
        tmp_path, BACKBONES['MAEViT'], optimizer=dict(state={}))
    content = torch.load(checkpoint)
    wanted = dict(content['state_dict'])
    content['state_dict']['neck.mask_token'] = torch.ones(1)
    torch.save(content, checkpoint)
    dst = str(tmp_path / f'backbone.{ending}')
    exported = export_checkpoint(config, checkpoint, dst, 'mmpretrain')
    assert exported.left_out == ['neck.*', 'optimizer']
    assert_equal(state_of(dst), wanted)
    cfg, *load = exported.usage.splitlines()
    model = torch.nn.Module()
    model.backbone = MODELS.build(eval(cfg.removeprefix('backbone=')))
    if load:
        eval(load[0], dict(model=model, safetensors=safetensors))
    else:
        model.backbone.init_weights()
    assert_equal(model.backbone.state_dict(), backbone.state_dict())


@pytest.mark.parametrize('to', ['mmpretrain', 'mmseg'])
def test_the_data_preprocessor_is_printed(tmp_path, to):
    config, checkpoint, _ = write(tmp_path, BACKBONES['MAEViT'])
    line = export_checkpoint(config, checkpoint, str(tmp_path / 'a.pth'),
                             to).data_preprocessor
    cfg = eval(line.removeprefix('data_preprocessor='))
    with DefaultScope.overwrite_default_scope(to):
        module = ROOT_MODELS.build(cfg)
    x = torch.tensor([153, 102, 51]).view(3, 1, 1).expand(3, 32, 32).byte()
    data = dict(inputs=[x])
    if to == 'mmpretrain':
        data = dict(inputs=x[None])
    images = torch.stack(list(module(data)['inputs']))
    # Blue came first; (51, 102, 153) are the means.
    assert images.shape == (1, 3, 32, 32) and not images.any()


def test_half_precision_stays(tmp_path):
    config, checkpoint, _ = write(tmp_path, BACKBONES['MAEViT'])
    half = {name: t.half() for name, t in state_of(checkpoint).items()}
    torch.save(half, checkpoint)
    dst = str(tmp_path / 'a.pth')
    export_checkpoint(config, checkpoint, dst, 'mmpretrain')
    assert_equal(state_of(dst), half)


@pytest.mark.filterwarnings('ignore:The `use_layer_scale`:UserWarning')
def test_deit3_with_norms_that_mmpretrain_ignores(tmp_path):
    config, checkpoint, backbone = write(tmp_path, dict(TOY, type='DeiT3'))
    state = {
        f'backbone.{name}': tensor + ('ln2' in name)
        for name, tensor in backbone.state_dict().items()
    }
    torch.save(state, checkpoint)
    dst = tmp_path / 'dst.pth'
    assert 'applies ln1 of a block where DeiT III applies ln2' in refused(
        config, checkpoint, dst, 'timm')
    assert not dst.exists()
    export_checkpoint(config, checkpoint, str(dst), 'mmpretrain')
    assert_equal(state_of(dst), state)


@pytest.mark.parametrize('kwargs, message', [
    (dict(pre_norm=True), 'pre_norm'),
    (dict(global_pool='avg'), 'a norm behind average pooling'),
])
def test_models_that_deit3_cannot_express(tmp_path, kwargs, message):
    kwargs = dict(
        kwargs, img_size=32, patch_size=8, embed_dim=24, depth=1, num_heads=2,
        no_embed_class=True)
    model = timm.create_model('vit_base_patch16_224', **kwargs)
    source, dst = tmp_path / 'source.pth', tmp_path / 'dst.pth'
    torch.save(model.state_dict(), source)
    assert refused(
        'vit_base_patch16_224', source, dst, 'mmpretrain',
        timm_kwargs=kwargs) == (
            f"mmpretrain's DeiT3 cannot express {message}.")
    assert not dst.exists()
