"""Vision transformers of torchvision teach."""
import pytest
import torch
from torchvision.models import VisionTransformer
from torchvision.models.vision_transformer import ConvStemConfig

from dmae_mm.models.student_input import StudentInput
from dmae_mm.weights.formats import translate
from dmae_mm.weights.origin import IMAGENET_MEAN, IMAGENET_STD
from tests.toys.converted import (BLOCKS, assert_features, big_file, saved,
                                  teacher_of, toy_images)
from tests.toys.models import randomize

NAME = 'vit_base_patch16_224'
SIZES = dict(image_size=32, patch_size=8, num_layers=3, num_heads=2,
             hidden_dim=32, mlp_dim=128, num_classes=5)  # yapf: disable


@pytest.fixture(scope='module')
def model():
    model = VisionTransformer(**SIZES).eval()
    randomize(model)
    return model


@torch.no_grad()
def own_features(model):
    """Outputs of the blocks, by torchvision itself."""
    outputs = []
    layers = [model.encoder.layers[block] for block in BLOCKS]
    hooks = [
        layer.register_forward_hook(lambda *call: outputs.append(call[-1]))
        for layer in layers
    ]
    model(toy_images())
    for hook in hooks:
        hook.remove()
    return outputs


def legacy(weights):
    """The names of older versions of torchvision."""
    return {
        name.replace('mlp.0', 'mlp.linear_1').replace(
            'mlp.3', 'mlp.linear_2'): tensor
        for name, tensor in weights.items()
    }


@pytest.mark.parametrize('change', [
    dict, legacy, lambda weights: dict(
        model={f'module.{name}': t for name, t in weights.items()}),
    lambda weights: dict(
        state_dict={f'model.{name}': t for name, t in weights.items()})
], ids=['torchvision', 'legacy', 'DDP', 'Lightning'])  # yapf: disable
def test_features_are_torchvisions(tmp_path, model, change):
    path = saved(tmp_path, change(model.state_dict()))
    assert_features(teacher_of(path, NAME), own_features(model))


def test_its_normalisation_counts_and_not_timms(tmp_path, model):
    """timm says 0.5 of this name, torchvision's transforms ImageNet's."""
    student = StudentInput((32, 32), (4, 4), 3, [127.5] * 3, [127.5] * 3)
    teacher = teacher_of(
        saved(tmp_path, model.state_dict()), NAME, student_input=student)
    assert tuple(teacher.image_matcher.mean) == IMAGENET_MEAN
    assert tuple(teacher.image_matcher.std) == IMAGENET_STD


def test_norms_add_as_much_as_torchvisions(tmp_path, model):
    """timm's CLIP models add 1e-5 to the variance; torchvision 1e-6."""
    teacher = teacher_of(
        saved(tmp_path, model.state_dict()), 'vit_base_patch16_clip_224',
        dict(img_size=32, patch_size=8, embed_dim=32, depth=3, num_heads=2,
             pre_norm=False))  # yapf: disable
    assert_features(teacher, own_features(model))
    norms = [module for module in teacher.network.modules()
             if isinstance(module, torch.nn.LayerNorm)]  # yapf: disable
    assert len(norms) == 6 and {norm.eps for norm in norms} == {1e-6}


@pytest.mark.parametrize('width, depth, patch, size, name', [
    (768, 12, 16, 384, 'vit_base_patch16_224'),
    (1280, 32, 14, 518, 'vit_huge_patch14_224'),
    (32, 12, 16, 224, None),
])
def test_which_model_of_timm_it_is(width, depth, patch, size, name):
    with torch.device('meta'):
        big = VisionTransformer(size, patch, depth, 2, width, 4)
    found = translate(big_file(big)).format
    assert found.model_name == name
    assert found.model_kwargs == (dict(img_size=size) if name else {})


def test_another_model_is_named(tmp_path, model):
    path = saved(tmp_path, model.state_dict())
    with pytest.raises(ValueError) as error:
        teacher_of(path, 'vit_tiny_patch16_224', {})
    assert 'has 3 blocks instead of 12' in str(error.value)


@pytest.mark.parametrize('change, message', [
    ({'conv_proj.bias': None}, 'patch_embed.proj.bias is missing'),
    ({'encoder.layers.encoder_layer_1.ln_1.bias': None},
     'blocks.1.norm1.bias is missing'),
    ({'class_token': torch.zeros(1, 1, 16)},
     r'cls_token has shape \(1, 1, 16\) instead'),
    ({'encoder.rope': torch.zeros(2)},
     'tensors are unknown: encoder.rope'),
    ({'conv_proj.bias': torch.full([32], float('nan'))}, 'not finite'),
])
def test_illegal_files(tmp_path, model, change, message):
    weights = {**model.state_dict(), **change}
    weights = {k: t for k, t in weights.items() if t is not None}
    with pytest.raises(ValueError, match=message):
        teacher_of(saved(tmp_path, weights), NAME)


def test_a_convolutional_stem_is_named(tmp_path):
    stem = [ConvStemConfig(8, 3, 2), ConvStemConfig(8, 3, 4)]
    other = VisionTransformer(**SIZES, conv_stem_configs=stem)
    with pytest.raises(ValueError, match='of torchvision with a convolution'):
        teacher_of(saved(tmp_path, other.state_dict()), NAME)
