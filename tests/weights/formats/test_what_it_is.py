"""A file that cannot teach is named as what it is."""
import pytest
import timm
import torch
import torchvision
from mmpretrain.registry import MODELS

from dmae_mm.weights.formats import what_it_is
from tests.toys.converted import KWARGS, saved
from tests.toys.models import RESNET


def on_meta(create, name):

    def build():
        with torch.device('meta'):
            return create(name)

    return build


def of_torchvision(name):
    return on_meta(torchvision.models.get_model, name)


def of_timm(name):
    return on_meta(timm.create_model, name)


def of_mmpretrain(backbone, **options):
    return lambda: torch.nn.ModuleDict(
        dict(backbone=MODELS.build(dict(type=backbone, **options))))


# By their own libraries.
KINDS = {
    'a ResNet': [of_torchvision('resnet18'), of_timm('resnet26d'),
                 of_torchvision('resnext50_32x4d'),
                 of_mmpretrain('ResNetV1d', depth=18)],
    'a Swin': [of_torchvision('swin_t'), of_torchvision('swin_v2_t'),
               of_timm('swin_tiny_patch4_window7_224'),
               of_timm('swinv2_tiny_window8_256'),
               of_mmpretrain('SwinTransformer')],
    'a ConvNeXt': [of_torchvision('convnext_tiny'), of_timm('convnext_atto'),
                   of_timm('convnextv2_atto'), of_mmpretrain('ConvNeXt')],
    'an EfficientNet': [of_torchvision('efficientnet_b0'),
                        of_torchvision('mobilenet_v2'),
                        of_torchvision('mobilenet_v3_small'),
                        of_timm('efficientnet_b0')],
    'a VGG': [of_torchvision('vgg11'), of_torchvision('alexnet')],
    'a BEiT': [of_timm('beit_base_patch16_224')],
    'a SAM': [of_timm('samvit_base_patch16')],
    'an MLP-Mixer': [of_timm('mixer_s16_224')],
}  # yapf: disable


@pytest.mark.parametrize('kind', KINDS)
def test_models_of_libraries(kind):
    for build in KINDS[kind]:
        names = build().state_dict()
        for prefix in ('', 'model.', 'visual.trunk.'):
            wrapped = {f'{prefix}{name}': t for name, t in names.items()}
            assert what_it_is(wrapped).startswith(kind), (prefix, kind)


ONE = torch.zeros(1)
WRITTEN = {
    'an adapter': ['base_model.model.vit.layer.0.attention.q.lora_A.weight',
                   'unet.down.lora_up.weight'],
    'a diffusion model': [
        'model.diffusion_model.input_blocks.0.0.weight',
        'down_blocks.0.resnets.0.conv1.weight',
        'first_stage_model.encoder.conv_in.weight',
        'encoder.mid_block.resnets.0.conv1.weight'],
    'a diffusion transformer': ['blocks.0.adaLN_modulation.1.weight'],
    'a SAM': ['image_encoder.blocks.0.attn.rel_pos_h',
              'backbone.net.blocks.0.attn.rel_pos_w',
              'mask_decoder.iou_token.weight'],
    'a model of text': ['token_embedding.weight',
                        'text.token_embedding.weight',
                        'bert.embeddings.word_embeddings.weight',
                        'model.embed_tokens.weight',
                        'transformer.wte.weight'],
}  # yapf: disable


@pytest.mark.parametrize('kind', WRITTEN)
def test_names_as_others_write_them(kind):
    for name in WRITTEN[kind]:
        assert what_it_is({'x': ONE, name: ONE}).startswith(kind)


def test_others_with_patches():
    shared = {'rel_pos_bias.relative_position_bias_table': ONE}
    assert what_it_is({
        **shared, 'blocks.0.norm1.weight': ONE
    }).startswith('a BEiT')
    assert what_it_is({**shared, 'layers.0.ln1.weight': ONE}) is None
    video = {'patch_embed.proj.weight': torch.zeros(2, 3, 2, 4, 4)}
    assert 'of videos' in what_it_is(video)


@pytest.mark.parametrize('build', [
    of_timm('vit_tiny_patch16_224'), of_timm('vit_small_patch14_dinov2'),
    of_timm('eva02_tiny_patch14_224'), of_timm('vit_small_patch16_dinov3'),
    of_timm('vit_base_patch16_siglip_224'),
    of_torchvision('vit_b_32'), of_mmpretrain('VisionTransformer'),
    of_mmpretrain('BEiTViT'), of_mmpretrain('HiViT'),
    of_mmpretrain('ViTEVA02')
])
def test_vision_transformers_are_none_of_these(build):
    assert what_it_is(build().state_dict()) is None


@pytest.mark.parametrize('teacher', [
    dict(type='TimmTeacher', model_name='vit_base_patch16_224',
         model_kwargs=KWARGS),
    dict(type='MMPretrainTeacher', backbone=dict(
        type='MAEViT', img_size=32, patch_size=8, arch=dict(
            embed_dims=32, num_layers=3, num_heads=2,
            feedforward_channels=128))),
])  # yapf: disable
@pytest.mark.parametrize('content, kind', [
    (lambda: timm.create_model('resnet10t'), 'a ResNet'),
    (lambda: timm.create_model(
        'swin_tiny_patch4_window7_224', embed_dim=24, depths=(1, 1)),
     'a Swin transformer'),
    (lambda: MODELS.build(RESNET), 'a ResNet'),
    (lambda: torch.nn.ModuleDict(
        dict(token_embedding=torch.nn.Embedding(2, 2))), 'a model of text'),
], ids=['ResNet', 'Swin', 'mmpretrain', 'text'])  # yapf: disable
def test_teachers_of_features_name_it(tmp_path, teacher, content, kind):
    """And not what is missing."""
    path = saved(tmp_path, content().state_dict())
    built = MODELS.build(
        dict(teacher, checkpoint=path, aligned_blocks=[0]))
    with pytest.raises(ValueError) as error:
        built.init_weights()
    assert f'{path} cannot be used: it is {kind}' in str(error.value)
    assert 'missing' not in str(error.value)
    assert 'blocks instead' not in str(error.value)


def test_a_teacher_of_logits_may_be_a_resnet(tmp_path):
    """There the reason counts: which tensors do not fit."""
    weights = MODELS.build(RESNET).state_dict()
    weights.pop('head.fc.bias')
    built = MODELS.build(
        dict(
            type='ClassifierTeacher',
            model=RESNET,
            img_size=32,
            checkpoint=saved(tmp_path, weights)))
    with pytest.raises(ValueError, match='head.fc.bias is missing'):
        built.init_weights()


def test_the_state_of_an_optimizer(tmp_path):
    linear = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(linear.parameters())
    path = saved(tmp_path, optimizer.state_dict())
    built = MODELS.build(
        dict(
            type='TimmTeacher',
            model_name='vit_base_patch16_224',
            model_kwargs=KWARGS,
            checkpoint=path,
            aligned_blocks=[0]))
    with pytest.raises(ValueError, match='is the state of an optimizer'):
        built.init_weights()
