"""The ImageNet configs by name, and the sizes that the paper gives them."""
import functools
import itertools

import torch
from mmengine.config import Config
from mmpretrain.registry import MODELS

from tests.conftest import ROOT

CONFIGS = ROOT / 'configs'

# Width, depth, heads and parameters of a backbone as it is pre-trained.
SIZES = dict(t=(192, 12, 3, 5_524_416),
             s=(384, 12, 6, 21_665_664),
             b=(768, 12, 12, 85_798_656),
             l=(1024, 24, 16, 303_301_632))
# Student -> teacher, its checkpoint, aligned block of the student and of the
# teacher.
TEACHERS = dict(t=('b', 'mae_vit-base-p16', 'f7569ca2', 8, 8),
                s=('b', 'mae_vit-base-p16', 'f7569ca2', 8, 8),
                b=('l', 'mae_vit-large-p16', 'cc7e98c9', 8, 17))
# Part of the file name -> mask ratio and visible patches of 14 x 14.
MASKS = {
    '': (0.75, 49),
    '-mask90': (0.9, 19),
    '-mask95': (0.95, 9),
    '-mask98': (0.98, 3)
}

DMAE = {
    f'dmae/vit-{size}_dmae{mask}_in1k.py': (size, mask)
    for size, mask in itertools.product('tsb', MASKS)
}
# Recipes whose teacher is timm's: model name, name on the Hugging Face hub.
TIMM_TEACHERS = {
    'dmae/vit-s_dmae-timm-mae_in1k.py':
    ('vit_base_patch16_224.mae', 'timm/vit_base_patch16_224.mae'),
    'dmae/vit-s_dmae-dinov2_in1k.py': ('vit_base_patch14_dinov2.lvd142m',
                                       'timm/vit_base_patch14_dinov2.lvd142m'),
    'dmae/vit-s_dmae-clip_in1k.py':
    ('vit_base_patch16_clip_quickgelu_224.openai',
     'timm/vit_base_patch16_clip_224.openai'),
}
HIVIT = 'dmae/hivit-t_dmae_in1k.py'
PRETRAINING = [*DMAE, *TIMM_TEACHERS, HIVIT]
BASELINES = {f'baselines/vit-{size}_mae_in1k.py': size for size in 'tsb'}
FINETUNE = {f'benchmarks/vit-{size}_finetune_in1k.py': size for size in 'tsb'}
LINEAR = {f'benchmarks/vit-{size}_linear_in1k.py': size for size in 'tsb'}


def _found(pattern: str) -> list:
    return sorted(
        path.relative_to(CONFIGS).as_posix() for path in CONFIGS.glob(pattern))


# Each is one option away from a recipe above: see test_ablations.py.
ABLATIONS = _found('ablations/*.py')
# With a fine-tuned teacher: see test_distilled_classifiers.py.
DISTILLED = [
    *_found('baselines/*_*-logits_in1k.py'),
    *_found('baselines/*_features_in1k.py'),
    *_found('benchmarks/*_finetune-logits_in1k.py')
]
# With few labels: see test_subset_recipes.py.
SUBSETS = _found('benchmarks/*_finetune-*pct_in1k.py')
ALL = [
    *PRETRAINING, *BASELINES, *FINETUNE, *LINEAR, *ABLATIONS, *DISTILLED,
    *SUBSETS
]


@functools.lru_cache(maxsize=None)
def load(name: str) -> Config:
    return Config.fromfile(CONFIGS / name)


def build(name: str):
    """The whole model, with shapes but without memory for its tensors."""
    with torch.device('meta'):
        return MODELS.build(load(name).model)


def shape_of(backbone) -> tuple:
    """Width, depth, heads, parameters; of all heads, if they differ."""
    heads = {layer.attn.num_heads for layer in backbone.layers}
    return (backbone.embed_dims, len(backbone.layers), *heads,
            sum(parameter.numel() for parameter in backbone.parameters()))


def differences(a, b, path=''):
    """Dotted names of the options in which two configs differ."""
    if isinstance(a, dict) and isinstance(b, dict):
        return [
            name for key in sorted({*a, *b}) for name in differences(
                a.get(key, '-'), b.get(key, '-'), f'{path}.{key}'.lstrip('.'))
        ]
    return [] if a == b else [path]
