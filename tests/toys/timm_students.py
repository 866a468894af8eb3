"""Models of timm, as a training in mmpretrain leaves them."""
import copy

import torch
from mmengine.config import Config
from mmpretrain.registry import MODELS

from .export_models import MEAN, STD
from .models import TEACHER, randomize
from .timm_families import FAMILIES, toy_kwargs

# Its names differ in a FeatureListNet; what lies behind; none of both.
MODELS_OF_TIMM = {
    'convnext_atto': dict(depths=(1, ) * 4, dims=(8, 16, 24, 32)),
    'mobilenetv3_small_050': {},
    'resnet18': {},
    'vit_tiny_patch16_224': dict(img_size=32, embed_dim=24, depth=2,
                                 num_heads=2),
    'swin_tiny_patch4_window7_224': dict(
        img_size=64, window_size=2, embed_dim=8, depths=(1, ) * 4,
        num_heads=(1, 1, 2, 2)),
}


def family_cfg(family, **changes):
    """Config of a student of one of the families."""
    kwargs = dict(toy_kwargs(family), depth=2)
    del kwargs['num_classes']
    return dict(
        type='MaskedTimmViT',
        model_name=FAMILIES[family],
        img_size=kwargs.pop('img_size'),
        model_kwargs=kwargs) | changes


def write_vit(folder, backbone, **parts):
    """Config and checkpoint, as a training leaves them, and the model."""
    cfg = dict(type='ImageClassifier', backbone=backbone) | parts
    channels = backbone.get('model_kwargs', {}).get('in_chans', 3)
    images = dict(mean=MEAN[:channels], std=STD[:channels],
                  to_rgb=channels == 3)
    text = f'model = dict(data_preprocessor={images!r}, **{cfg!r})'
    config, checkpoint = folder / 'config.py', folder / 'epoch_1.pth'
    config.write_text(text)
    model = MODELS.build(copy.deepcopy(cfg))
    randomize(model)
    model.eval()
    torch.save(dict(state_dict=model.state_dict(), meta=dict(cfg=text)),
               checkpoint)
    return str(config), str(checkpoint), model


def write_maps(folder, name, **kwargs):
    """Config and checkpoint of a FeatureDistiller, and the model."""
    cfg = dict(
        type='FeatureDistiller',
        backbone=dict(type='TIMMBackbone', model_name=name, **kwargs),
        data_preprocessor=dict(mean=MEAN, std=STD, to_rgb=True),
        teacher=dict(
            type='MMPretrainTeacher', allow_random=True, backbone=dict(
                type='VisionTransformer', arch=TEACHER, img_size=32,
                patch_size=8)))
    model = MODELS.build(dict(cfg))
    with torch.no_grad():
        randomize(model)
    model.eval()
    cfg['teacher'].update(checkpoint='gone.pth', allow_random=False)
    Config(dict(model=cfg)).dump(folder / 'config.py')
    torch.save(dict(state_dict=model.state_dict(), meta={}),
               folder / 'source.pth')
    return str(folder / 'config.py'), str(folder / 'source.pth'), model
