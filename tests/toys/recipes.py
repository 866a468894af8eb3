"""The ImageNet recipes by name, and the sizes that the paper gives them."""
import functools
import sys

import torch
from mmengine.config import Config
from mmpretrain.registry import MODELS

from tests.toys.models import ROOT

sys.path.insert(0, str(ROOT / 'studies'))

from recipes_page import PAGE, read_page  # noqa: E402

CONFIGS = ROOT / 'configs'
# All rows of docs/recipes.md, by name; and those that are options of others,
# of ViTs and of other students.
ROWS = read_page(PAGE.read_text())
STUDENT_VARIATIONS = {
    name: row
    for name, row in ROWS.items()
    if row.options and '/students/' in row.config
}
VARIATIONS = {
    name: row
    for name, row in ROWS.items()
    if row.options and name not in STUDENT_VARIATIONS
}

# Width, depth, heads and parameters of a backbone as it is pre-trained.
SIZES = dict(t=(192, 12, 3, 5_524_416),
             s=(384, 12, 6, 21_665_664),
             b=(768, 12, 12, 85_798_656),
             l=(1024, 24, 16, 303_301_632))
# Recipe -> student, mask ratio and visible patches of 14 x 14.
DMAE = {
    'dmae/vit-t_dmae_in1k.py': ('t', 0.75, 49),
    'dmae/vit-s_dmae_in1k.py': ('s', 0.75, 49),
    'dmae/vit-b_dmae_in1k.py': ('b', 0.75, 49),
    'dmae/vit-b_dmae-mask95_in1k.py': ('b', 0.95, 9),
    'dmae/vit-b_dmae-mask98_in1k.py': ('b', 0.98, 3),
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
TIMM_STUDENT = 'dmae/vit-t-timm_dmae_in1k.py'
TIMM_FINETUNE = 'benchmarks/vit-t-timm_finetune_in1k.py'
TIMM_LINEAR = 'benchmarks/vit-t-timm_linear_in1k.py'
BASELINES = {f'baselines/vit-{size}_mae_in1k.py': size for size in 'tsb'}
FINETUNE = {f'benchmarks/vit-{size}_finetune_in1k.py': size for size in 'tsb'}
LINEAR = {f'benchmarks/vit-{size}_linear_in1k.py': size for size in 'tsb'}
# The files that docs/recipes.md and the model index list.
ALL = sorted(
    path.relative_to(CONFIGS).as_posix()
    for folder in ('dmae', 'students', 'baselines', 'benchmarks')
    for path in CONFIGS.glob(f'{folder}/*.py'))


@functools.lru_cache(maxsize=None)
def load(name: str) -> Config:
    """A recipe: path of its file, or name of its row; not to be changed."""
    return ROWS[name.split('/')[-1].removesuffix('_in1k.py')].read()


def build(name: str):
    """The whole model, with shapes but without memory for its tensors."""
    with torch.device('meta'):
        return MODELS.build(load(name).model)


def shape_of(backbone) -> tuple:
    """Width, depth, heads, parameters; of all heads, if they differ."""
    heads = {layer.attn.num_heads for layer in backbone.layers}
    return (backbone.embed_dims, len(backbone.layers), *heads,
            sum(parameter.numel() for parameter in backbone.parameters()))


def visible_patches(backbone) -> int:
    """How many of a real image's 196 patches the student sees."""
    patches, _, _ = backbone.random_masking(
        torch.zeros(1, 196, 1), backbone.mask_ratio)
    return patches.shape[1]


def differences(a, b, path=''):
    """Dotted names of the options in which two configs differ."""
    if isinstance(a, dict) and isinstance(b, dict):
        return [
            name for key in sorted({*a, *b}) for name in differences(
                a.get(key, '-'), b.get(key, '-'), f'{path}.{key}'.lstrip('.'))
        ]
    return [] if a == b else [path]
