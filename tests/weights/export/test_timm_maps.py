"""Any model of timm that was trained by its maps goes back to timm."""
import pytest
import timm
import torch
from mmengine.config import Config
from mmpretrain.registry import MODELS

from dmae_mm.weights import export_checkpoint, read_tensor_file
from tests.toys.timm_students import MODELS_OF_TIMM, write_maps


@pytest.mark.parametrize('name, kwargs', MODELS_OF_TIMM.items(),
                         ids=MODELS_OF_TIMM)
def test_to_timm(name, kwargs, tmp_path):
    config, source, model = write_maps(tmp_path, name, **kwargs)
    path = str(tmp_path / 'plain.safetensors')
    exported = export_checkpoint(config, source, path, 'timm', num_classes=7)
    assert exported.differences['map'] <= 1e-5
    assert exported.left_out == ['distill_neck.*']
    usage = exported.usage
    assert eval(usage).num_classes == 7  # of a toy model, what was printed
    found = eval(usage.replace('num_classes=7, ', '', 1)[:-1] +
                 ', features_only=True' +
                 ', out_indices=(1, )' * ('depth' in kwargs) + ')')
    found.eval()
    size = kwargs.get('img_size', 64)
    images = torch.randn(2, 3, size, size)
    last, = model.extract_feat(images)
    ours = found(images)[-1]
    if ours.shape != last.shape:  # the usual class of timm's has Swin's last
        ours = ours.permute(0, 3, 1, 2)
    torch.testing.assert_close(ours, last, rtol=1e-5, atol=1e-5)
    config = timm.data.resolve_model_data_config(found)
    assert config['mean'] == pytest.approx((.2, .4, .6))
    notes = ' '.join(exported.notes)
    assert 'zeros, not trained, 7 classes' in notes
    behind = {'convnext_atto': 'head.norm', 'resnet18': None,
              'mobilenetv3_small_050': 'conv_head',
              'vit_tiny_patch16_224': 'norm.bias',
              'swin_tiny_patch4_window7_224': 'norm.bias'}[name]
    assert behind in notes if behind else 'initial values' not in notes


def test_what_is_not_trained_is_the_same_each_time(tmp_path):
    config, source, _ = write_maps(tmp_path, 'mobilenetv3_small_050')
    for name in 'ab':
        export_checkpoint(config, source, str(tmp_path / f'{name}.pth'),
                          'timm', num_classes=0)
    one, two = (read_tensor_file(str(tmp_path / f'{name}.pth')).tensors
                for name in 'ab')
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert 'classifier.weight' not in one and 'conv_head.weight' in one


def test_a_stage_before_the_last(tmp_path):
    config, _, _ = write_maps(tmp_path, 'resnet18')
    cfg = Config.fromfile(config)
    cfg.model.aligned_layers = [(3, -1)]
    cfg.dump(config)
    backbone = MODELS.build(dict(
        type='TIMMBackbone', model_name='resnet18', features_only=True,
        out_indices=(3, )))
    torch.save(dict(state_dict={
        f'backbone.{name}': tensor
        for name, tensor in backbone.state_dict().items()}),
        tmp_path / 'three.pth')
    exported = export_checkpoint(
        config, str(tmp_path / 'three.pth'), str(tmp_path / 'b.pth'), 'timm')
    assert 'layer4.0' in ' '.join(exported.notes)


@pytest.mark.parametrize('options, message', [
    (dict(to='mmpretrain'), 'needs no export.*init_cfg'),
    (dict(to='timm', img_size=64), 'img_size=.64, 64.*Leave it out'),
    (dict(to='timm', cfg_options={'model.backbone.model_name': 'resnet34'}),
     "has not the weights of timm's resnet34"),
    (dict(to='timm', cfg_options={'model.backbone.model_name': 'resnet1'}),
     'resnet1.*fails'),
])
def test_refusals(options, message, tmp_path):
    config, source, _ = write_maps(tmp_path, 'resnet18')
    with pytest.raises(ValueError, match=message):
        export_checkpoint(config, source, str(tmp_path / 'a.pth'), **options)
    assert not (tmp_path / 'a.pth').exists()
