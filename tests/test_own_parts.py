"""docs/own-parts.md: its classes and its config work as they stand there."""
import re
import sys

import pytest
import torch
from mmengine.config import Config
from mmpretrain.registry import MODELS
from torchvision.models import VisionTransformer

from tests.toys.models import ROOT, TOY_MODEL

PAGE = ROOT / 'docs' / 'own-parts.md'
TOY_VIT = dict(
    image_size=32,
    patch_size=8,
    num_layers=6,
    num_heads=2,
    hidden_dim=32,
    mlp_dim=64)


@pytest.fixture(scope='module')
def config(tmp_path_factory):
    """The page's config, read, beside the page's classes."""
    folder = tmp_path_factory.mktemp('own')
    blocks = re.findall('```python\n(.*?)```', PAGE.read_text(), re.DOTALL)
    settings = [text for text in blocks if '# my_config.py' in text]
    assert len(blocks) == 5 and len(settings) == 1
    (folder / 'my_parts.py').write_text('\n\n'.join(
        text for text in blocks if text not in settings))
    path = folder / 'my_config.py'
    path.write_text(settings[0].replace('configs/', f'{ROOT}/configs/'))
    sys.path.insert(0, str(folder))
    yield Config.fromfile(path)
    sys.path.remove(str(folder))
    for name in ('TorchvisionTeacher', 'NormedProjector', 'LogCoshLoss'):
        MODELS.module_dict.pop(name)
    sys.modules.pop('my_parts')


def test_the_config_builds_in_its_own_sizes(config):
    with torch.device('meta'):
        model = MODELS.build(config.model)
    assert model.teacher.aligned_blocks == (8, )
    assert [p[1].weight.shape for p in model.distill_neck.projectors
            ] == [(768, 384)]


def test_a_step_against_the_parts_by_themselves(config, images, tmp_path):
    vit = VisionTransformer(**TOY_VIT).eval()
    for parameter in vit.parameters():
        torch.nn.init.normal_(parameter, std=.1)
    file = tmp_path / 'vit.pth'
    torch.save(vit.state_dict(), file)
    model = MODELS.build(
        dict(
            TOY_MODEL,
            teacher=dict(config.model.teacher, vit=TOY_VIT,
                         checkpoint=str(file)),
            distill_neck=config.model.distill_neck,
            distill_loss=config.model.distill_loss))
    model.init_weights()
    seen = {}
    model.backbone.register_forward_hook(
        lambda module, args, output: seen.update(ids=output[2]))
    model.backbone.layers[2].register_forward_hook(
        lambda module, args, output: seen.update(tokens=output))
    loss = model.loss(images, None)['loss_align_s2_t3']

    keep = seen['ids'].argsort(dim=1)[:, :4]
    encoder = vit.encoder
    with torch.no_grad():
        patches = vit._process_input(images)
        cls_token = vit.class_token.expand(len(images), -1, -1)
        tokens = torch.cat([cls_token, patches], 1) + encoder.pos_embedding
        rows = torch.arange(len(images))[:, None]
        tokens = torch.cat([tokens[:, :1], tokens[:, 1:][rows, keep]], 1)
        for layer in encoder.layers[:4]:
            tokens = layer(tokens)
    student = model.distill_neck.projectors[0](seen['tokens'])
    torch.testing.assert_close(
        loss, (student - tokens).cosh().log().mean(), rtol=1e-5, atol=1e-6)
    loss.backward()
    assert model.distill_neck.projectors[0][1].weight.grad.abs().sum() > 0


def test_weights_that_are_left_out_are_refused(config, tmp_path):
    vit = VisionTransformer(**TOY_VIT)
    weights = vit.state_dict()
    del weights['encoder.layers.encoder_layer_1.mlp.0.weight']
    torch.save(weights, tmp_path / 'vit.pth')
    model = MODELS.build(
        dict(
            TOY_MODEL,
            teacher=dict(config.model.teacher, vit=TOY_VIT,
                         checkpoint=str(tmp_path / 'vit.pth'))))
    with pytest.raises(RuntimeError, match='encoder_layer_1.mlp.0.weight'):
        model.init_weights()
