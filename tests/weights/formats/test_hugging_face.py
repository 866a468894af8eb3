"""Files of Hugging Face transformers are recognised, or named."""
import json
import shutil

import numpy as np
import pytest
import torch
from mmpretrain.registry import MODELS as REGISTRY
from safetensors.torch import load_file, save_file

from dmae_mm.models.student_input import StudentInput
from dmae_mm.weights import read_tensor_file
from dmae_mm.weights.formats import described_folder, translate
from tests.toys.hugging_face import GOLDEN, MODELS, images

WANTED = np.load(GOLDEN / 'features.npz')
MEAN, STD = [127.5, 63.75, 31.875], [63.75, 127.5, 51.]


def build(checkpoint, **options):
    teacher = REGISTRY.build(
        dict(
            type='TimmTeacher',
            checkpoint=str(checkpoint),
            aligned_blocks=(0, 1),
            **options))
    teacher.init_weights()
    return teacher


def assert_features(teacher, name):
    for ids_keep in (None, torch.arange(16).expand(2, -1)):
        features = torch.stack(teacher(images(), ids_keep))
        np.testing.assert_allclose(
            features, WANTED[name], rtol=1e-5, atol=1e-5)


@pytest.fixture
def copy(tmp_path):
    """A folder of which something can be spoilt."""

    def copied(name='vit'):
        folder = tmp_path / 'model'
        shutil.copytree(GOLDEN / name, folder)
        return folder

    return copied


def change(folder, name='config.json', **options):
    path = folder / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **options}))


def weights_of(folder):
    return load_file(folder / 'model.safetensors')


@pytest.mark.parametrize('name', MODELS)
def test_a_folder_says_all(name):
    """Features of transformers, from the folder alone."""
    teacher = build(GOLDEN / name)
    assert_features(teacher, name)
    assert list(teacher.image_matcher.mean) == pytest.approx(MEAN)
    assert list(teacher.image_matcher.std) == pytest.approx(STD)


@pytest.mark.parametrize('name', ['dinov2', 'dinov2_registers', 'dinov3'])
def test_a_subset_of_patches(name):
    """As the same weights under timm's names give it."""
    teacher = build(GOLDEN / name)
    ids_keep = torch.tensor([[0, 5, 11], [2, 3, 15]])
    some = teacher(images(), ids_keep)[1]
    changed = images()
    changed[0, :, :4, 4:8] = 9.  # patch 1, which nobody sees
    changed[1, :, :4, 4:8] = 9.
    assert torch.equal(teacher(changed, ids_keep)[1], some)
    assert some.shape[1] == teacher.num_prefix_tokens + 3


@pytest.mark.parametrize('name', ['vit', 'clip', 'siglip'])
def test_a_single_file_where_the_name_says_all(tmp_path, name):
    """Without config.json, model_name decides what shapes do not show."""
    path = tmp_path / 'one.safetensors'
    shutil.copy(GOLDEN / name / 'model.safetensors', path)
    options = described_folder(str(GOLDEN / name))
    teacher = build(path, **options)
    if name != 'vit':  # timm's has another epsilon in its norms
        assert_features(teacher, name)
    with pytest.raises(FileNotFoundError, match='is not there'):
        build(tmp_path / 'two.safetensors')
    with pytest.raises(ValueError, match='Give model_name'):
        build(path)


def test_a_single_file_in_its_folder():
    assert_features(build(GOLDEN / 'vit' / 'model.safetensors'), 'vit')


def test_the_config_goes_before_the_epsilon_of_timm():
    teacher = build(
        GOLDEN / 'vit', **described_folder(str(GOLDEN / 'vit')))
    assert_features(teacher, 'vit')


QUICK = dict(act_cfg=dict(type='mmpretrain.QuickGELU'))


def build_mmpretrain(name, **backbone):
    arch = dict(
        embed_dims=16, num_layers=2, num_heads=2,
        feedforward_channels=32 if name == 'dinov2' else 24)
    teacher = REGISTRY.build(
        dict(
            type='MMPretrainTeacher',
            backbone=dict(dict(type='VisionTransformer', arch=arch,
                               img_size=16, patch_size=4), **backbone),
            checkpoint=str(GOLDEN / name),
            aligned_blocks=(0, 1)))
    teacher.init_weights()
    return teacher


@pytest.mark.parametrize('name, backbone', [
    ('vit', dict()), ('vit_mae', dict(type='MAEViT')),
    ('vit_mae_whole', dict(type='MAEViT')),
    ('dinov2', dict(layer_scale_init_value=1e-5)),
    ('clip', dict(pre_norm=True, layer_cfgs=QUICK))])
def test_teachers_of_mmpretrain(name, backbone):
    assert_features(build_mmpretrain(name, **backbone), name)


def test_other_teachers_of_mmpretrain():
    with pytest.raises(ValueError, match="activation 'quick_gelu'"):
        build_mmpretrain('clip', pre_norm=True)
    with pytest.raises(ValueError, match='register tokens.*TimmTeacher'):
        build_mmpretrain('dinov2_registers', layer_scale_init_value=1e-5)


def test_the_file_says_how_its_images_were_normalised():
    student = StudentInput((16, 16), (4, 4), 3, [0.] * 3, [255.] * 3)
    teacher = build(
        GOLDEN / 'vit',
        student_input=student,
        model_name='vit_base_patch16_224',
        model_kwargs=described_folder(str(GOLDEN / 'vit'))['model_kwargs'])
    assert list(teacher.image_matcher.mean) == pytest.approx(MEAN)
    wanted = (images() - torch.tensor([.5, .25, .125]).view(3, 1, 1)
              ) / torch.tensor([.25, .5, .2]).view(3, 1, 1)
    torch.testing.assert_close(teacher.image_matcher(images()), wanted)


@pytest.mark.parametrize('said, mean, std', [
    (dict(image_mean=.5, image_std=.5), [127.5], [127.5]),
    (dict(image_mean=[.5], image_std=[.5], rescale_factor=.5), [1.], [1.]),
    (dict(image_mean=[.5], image_std=[.5], do_rescale=False), [.5], [.5]),
    (dict(image_mean=[.5], image_std=[.5], do_normalize=False), [0.], [255.]),
    (dict(image_processor=dict(image_mean=[.5], image_std=[1.])), [127.5],
     [255.]),
])  # yapf: disable
@pytest.mark.parametrize('name', ['preprocessor_config.json',
                                  'processor_config.json'])
def test_mean_and_std_for_pixel_values(copy, said, mean, std, name):
    folder = copy()
    (folder / 'preprocessor_config.json').unlink()
    (folder / name).write_text(json.dumps(said))
    options = described_folder(str(folder))
    assert options['mean'] == pytest.approx(mean)
    assert options['std'] == pytest.approx(std)


def test_nobody_says_how_images_were_normalised(copy):
    folder = copy()
    (folder / 'preprocessor_config.json').unlink()
    with pytest.raises(ValueError, match='no preprocessor_config.json'):
        build(folder)
    teacher = build(folder, mean=[1., 2., 3.], std=[4., 5., 6.])
    assert list(teacher.image_matcher.mean) == [1., 2., 3.]


@pytest.mark.parametrize('said', [
    dict(image_mean=[.5, 'x'], image_std=[1., 1.]),
    dict(image_mean=[.5], image_std=[0.]),
    dict(image_mean=[.5], image_std=[1., 1.]),
    dict(image_mean=[], image_std=[]),
    dict(image_mean=[.5], image_std=[1.], rescale_factor=0),
])
def test_senseless_means(copy, said):
    folder = copy()
    (folder / 'preprocessor_config.json').write_text(json.dumps(said))
    with pytest.raises(ValueError, match='preprocessor_config.json says ima'):
        build(folder)


def test_the_text_tower_is_named():
    file = translate(read_tensor_file(str(GOLDEN / 'clip')))
    assert file.format.name == 'the vision tower of a Hugging Face CLIP'
    assert any(name.startswith('text_model.* (') for name in file.ignored)
    assert 'visual_projection.weight' in file.ignored


@pytest.mark.parametrize('tensors, message', [
    (['text_model.embeddings.token_embedding.weight'], 'CLIP text model'),
    (['embeddings.token_embedding.weight', 'head.weight'],
     'SigLIP text model'),
    (['bert.embeddings.word_embeddings.weight'], 'Hugging Face text model'),
    (['vit.embeddings.patch_embeddings.projection.weight', 'surprise'],
     'these tensors are unknown: surprise'),
])
def test_single_files_that_cannot_be_converted(tmp_path, tensors, message):
    path = tmp_path / 'x.safetensors'
    save_file({name: torch.ones(2) for name in tensors}, path)
    with pytest.raises(ValueError, match=message):
        translate(read_tensor_file(str(path)))


@pytest.mark.parametrize('config, message', [
    (dict(model_type='clip_text_model'), 'a Hugging Face CLIP text model'),
    (dict(model_type='siglip_text_model'), 'a Hugging Face SigLIP text model'),
    (dict(model_type='bert', architectures=['BertModel']),
     r"of type 'bert' \(BertModel\)"),
    (dict(model_type=['x']), r"of type \['x'\]"),
    (dict(model_type='clip', vision_config=3), 'vision_config=3'),
    (dict(hidden_size='768'), "hidden_size='768'; expected is a number"),
    (dict(hidden_size=15), 'do not divide'),
    (dict(hidden_act='swooosh'), "hidden_act='swooosh'"),
    (dict(layer_norm_eps=-1), 'layer_norm_eps=-1'),
    (dict(image_size=[16, 16, 16]), r'image_size=\[16, 16, 16\]'),
    (dict(qkv_bias=1), 'qkv_bias=1; expected is true or false'),
    (dict(num_hidden_layers=1 << 40), 'num_hidden_layers=1099511627776'),
])
def test_configs_that_cannot_be_converted(copy, config, message):
    folder = copy()
    change(folder, **config)
    with pytest.raises(ValueError, match=message):
        build(folder)
    with pytest.raises(ValueError, match=message):
        translate(read_tensor_file(str(folder)))


@pytest.mark.parametrize('name, option, said, found', [
    ('vit', 'hidden_size', 32, 16),
    ('vit', 'num_hidden_layers', 3, 2),
    ('vit', 'patch_size', 8, r'\(4, 4\)'),
    ('vit', 'num_channels', 1, 3),
    ('vit', 'intermediate_size', 20, 24),
    ('dinov2', 'mlp_ratio', 4, 32),
    ('dinov3', 'num_register_tokens', 4, 3),
])
def test_a_config_that_contradicts_the_weights(copy, name, option, said,
                                               found):
    folder = copy(name)
    change(folder, **{option: said})
    with pytest.raises(
            ValueError,
            match=f'config.json contradicts .* says .*{option}.*=.* have '
            f'{found}'):
        build(folder)


def test_a_config_of_another_family(copy):
    folder = copy('vit')
    change(folder, model_type='dinov2')
    with pytest.raises(ValueError, match='says that it is a Hugging Face '
                       'DINOv2, but the names .* a Hugging Face ViT'):
        build(folder)
    save_file({'encoder.0.weight': torch.ones(2)},
              folder / 'model.safetensors')
    with pytest.raises(ValueError, match='but the weights have other names: '
                       'encoder.0.weight'):
        build(folder)


def test_an_activation_that_no_shape_shows(copy):
    options = described_folder(str(GOLDEN / 'clip'))
    options['model_kwargs']['act_layer'] = 'gelu'
    with pytest.raises(ValueError, match="with the activation 'quick_gelu', "
                       'the teacher has GELU'):
        build(GOLDEN / 'clip', **options)


def test_another_number_of_heads():
    options = described_folder(str(GOLDEN / 'vit'))
    options['model_kwargs']['num_heads'] = 4
    with pytest.raises(ValueError, match='config.json.* says num_heads=2'):
        build(GOLDEN / 'vit', **options)


def test_biases_of_zeros_that_timm_leaves_out(copy):
    """timm has its larger DINOv3 without them."""
    options = described_folder(str(GOLDEN / 'dinov3'))
    options['model_kwargs']['qkv_bias'] = False
    with pytest.raises(ValueError, match='q_bias is unknown'):
        build(GOLDEN / 'dinov3', **options)
    folder = copy('dinov3')
    weights = weights_of(folder)
    for name in weights:
        if name.endswith(('q_proj.bias', 'v_proj.bias')):
            weights[name] = torch.zeros_like(weights[name])
    save_file(weights, folder / 'model.safetensors')
    build(folder, **options)
    weights['layer.0.attention.k_proj.bias'] = torch.ones(16)
    save_file(weights, folder / 'model.safetensors')
    with pytest.raises(ValueError, match='a bias of keys'):
        build(folder)


def test_a_missing_tensor_is_named(copy):
    folder = copy()
    weights = weights_of(folder)
    del weights['encoder.layer.1.attention.attention.key.weight']
    save_file(weights, folder / 'model.safetensors')
    with pytest.raises(ValueError, match=r"blocks.1.attn.qkv.weight cannot be "
                       r"made: .*\['k'\] are missing"):
        build(folder)


@pytest.mark.parametrize('name', ['vit_classifier', 'dinov2_registers',
                                  'dinov3_gated', 'clip', 'siglip_vision'])
def test_tensors_of_other_shapes(copy, name):
    """One after the other becomes a scalar, with any kind of error inside."""
    folder = copy(name)
    weights = weights_of(folder)
    needed = [name for name in weights if any(
        part in name for part in ('layer.0', 'layers.0', 'embeddings.'))
        and 'mask_token' not in name and 'text_model' not in name]
    for spoilt in needed:
        save_file({**weights, spoilt: torch.tensor(1.)},
                  folder / 'model.safetensors')
        with pytest.raises(ValueError, match=str(folder)):
            build(folder)


def test_old_configs_leave_out_defaults(copy):
    """SigLIP's on the hub says no more of its vision tower."""
    folder = copy('siglip')
    change(folder, vision_config=dict(model_type='siglip_vision_model'))
    options = described_folder(str(folder))
    kwargs = options['model_kwargs']
    assert kwargs['embed_dim'] == 768 and kwargs['depth'] == 12
    assert kwargs['act_layer'] == 'gelu_tanh' and kwargs['patch_size'] == 16


@pytest.mark.parametrize('hidden', [1, 3, 4096, 5461])
def test_widths_of_mlps_are_exact(copy, hidden):
    folder = copy()
    change(folder, intermediate_size=hidden, hidden_size=1536)
    kwargs = described_folder(str(folder))['model_kwargs']
    assert int(1536 * kwargs['mlp_ratio']) == hidden


def test_golden_features_where_transformers_can_be_imported():
    pytest.importorskip('transformers')
    from tests.toys.hugging_face import features, load
    for name in MODELS:
        np.testing.assert_allclose(
            features(load(name)), WANTED[name], rtol=1e-5, atol=1e-5)
