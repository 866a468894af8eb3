"""Backbones that a FeatureDistiller has trained, for other packages."""
import torch
from mmengine.config import ConfigDict
from mmengine.registry import DefaultScope
from mmpretrain.registry import MODELS

from tests.toys.models import TEACHER, randomize

SWIN = dict(embed_dims=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2])
RESNET = dict(type='ResNet', depth=18, base_channels=8, stem_channels=8)
MAPS = dict(out_indices=(0, 1, 2, 3))
MOBILENET = dict(type='mmpretrain.MobileNetV3', arch='small_050')
# For each, its config in mmpretrain and what follows the scope elsewhere.
CASES = {
    'ResNet': (dict(RESNET, **MAPS), dict(RESNET, **MAPS)),
    # Others name its options otherwise.
    'SwinTransformer': (
        dict(type='SwinTransformer', arch=SWIN, window_size=2, **MAPS),
        dict(SWIN, type='SwinTransformer', window_size=2, **MAPS)),
    'MobileNetV3': (MOBILENET, MOBILENET),
}


def check_loads(scope: str, registry, ours: dict, theirs: dict,
                path: str) -> None:
    """What was trained is loaded as it is, with equal features."""
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(dict(
            type='FeatureDistiller',
            backbone=ours,
            teacher=dict(
                type='MMPretrainTeacher', allow_random=True, backbone=dict(
                    type='VisionTransformer', arch=TEACHER, img_size=32,
                    patch_size=8))))
    with torch.no_grad():
        randomize(model)
    model.eval()
    torch.save(dict(state_dict=model.state_dict(), meta={}), path)
    kind = theirs['type']
    loaded = registry.build(ConfigDict(
        theirs, type=kind if '.' in kind else f'{scope}.{kind}',
        init_cfg=dict(
            type='Pretrained', checkpoint=path, prefix='backbone.')))
    loaded.init_weights()
    loaded.eval()
    images = torch.randn(2, 3, 64, 64)
    wanted, found = model.extract_feat(images), loaded(images)
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
