"""Queries, keys and values of teachers, and nothing behind them."""
import pytest
import torch
from mmpretrain.registry import MODELS
from torch.utils.flop_counter import FlopCounterMode

from dmae_mm.models.mmpretrain_vits import blocks
from dmae_mm.models.qkv_layers import qkv_layers
from tests.toys.models import HIVIT_TEACHER, TEACHER, randomize

VIT = dict(arch=TEACHER, img_size=32, patch_size=8)
IDS = torch.tensor([[3, 0, 9], [15, 2, 7]])


def of_mmpretrain(block, tap, **backbone):
    return MODELS.build(
        dict(
            type='MMPretrainTeacher',
            backbone=VIT | backbone,
            aligned_blocks=block,
            tap=tap,
            allow_random=True))


def of_timm(block, tap, name, **kwargs):
    return MODELS.build(
        dict(
            type='TimmTeacher',
            model_name=name,
            model_kwargs=dict(
                embed_dim=32, depth=6, num_heads=2, img_size=64,
                patch_size=16) | kwargs,
            aligned_blocks=block,
            tap=tap,
            allow_random=True))


TEACHERS = {
    'MAE': lambda *args: of_mmpretrain(*args, type='MAEViT'),
    'no CLS': lambda *args: of_mmpretrain(
        *args, type='VisionTransformer', with_cls_token=False),
    'two prefix tokens': lambda *args: of_mmpretrain(
        *args, type='DistilledVisionTransformer'),
    'DeiT3': lambda *args: of_mmpretrain(*args, type='DeiT3'),
    'BEiT, one bias': lambda *args: of_mmpretrain(
        *args, type='BEiTViT', bias=True),
    'EVA-02': lambda *args: of_mmpretrain(*args, type='ViTEVA02'),
    'HiViT': lambda *args: of_mmpretrain(
        *args, type='HiViT', **HIVIT_TEACHER),
    'timm': lambda *args: of_timm(*args, 'vit_base_patch16_224.mae'),
    'timm, registers': lambda *args: of_timm(
        *args, 'vit_small_patch14_reg4_dinov2.lvd142m'),
    'timm, rotary': lambda *args: of_timm(
        *args, 'vit_small_patch16_dinov3.lvd1689m'),
    'timm, mixed rotary': lambda *args: of_timm(
        *args, 'vit_small_patch16_rope_mixed_224.naver_in1k'),
}


def images_of(teacher):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 3, *teacher.img_size, generator=generator)


def blocks_of(teacher):
    network = teacher.network
    return network.blocks if hasattr(network, 'patch_drop') else (
        blocks(network))


@pytest.mark.parametrize('name', TEACHERS)
def test_they_are_those_of_the_whole_block(name):
    """What a hook sees in a teacher whose last block is whole."""
    whole = TEACHERS[name]([1, 3], 'block')
    randomize(whole.network)
    teacher = TEACHERS[name]([3, 1, 3], 'qkv')
    weights = whole.network.state_dict()
    teacher.network.load_state_dict(
        {key: weights[key] for key in teacher.network.state_dict()})
    wanted = []
    for index in (1, 3):
        blocks_of(whole)[index].attn.qkv.register_forward_hook(
            lambda module, args, output: wanted.append(output))
    images = images_of(teacher)
    whole(images, IDS)
    features = teacher(images, IDS)
    assert teacher.embed_dims == 32 and teacher.num_heads == 2
    assert len(features) == 3
    for ours, its in zip(features, (wanted[1], wanted[0], wanted[1])):
        assert ours.shape == (2, teacher.num_prefix_tokens + 3, 96)
        assert torch.equal(ours, its)


@pytest.mark.parametrize('name', ['MAE', 'HiViT', 'timm, registers'])
def test_nothing_behind_the_last_one_runs(name):
    """Counted: without it, the last block is one norm and one layer."""
    flops = {}
    teachers = {
        'qkv': TEACHERS[name]([2], 'qkv'),
        'block before': TEACHERS[name]([1], 'block')
    }
    for tap, teacher in teachers.items():
        with FlopCounterMode(display=False) as counter:
            teacher(images_of(teacher), IDS)
        flops[tap] = counter.get_total_flops()
    tokens = 2 * (teachers['qkv'].num_prefix_tokens + 3)
    assert flops['qkv'] - flops['block before'] == 2 * tokens * 32 * 96
    names = {name for name, _ in blocks_of(teachers['qkv'])[2]
             .named_parameters()}
    norm = 'ln1' if name == 'MAE' else 'norm1'
    assert names == {f'{part}.{kind}' for part in (norm, 'attn.qkv')
                     for kind in ('weight', 'bias')}


def test_a_checkpoint_loads_strictly(tmp_path):
    """That of the whole backbone; nothing that is needed may be missing."""
    whole = MODELS.build(VIT | dict(type='MAEViT'))
    randomize(whole)
    weights = whole.state_dict()
    file = tmp_path / 'mae.pth'
    teacher = dict(
        type='MMPretrainTeacher', backbone=VIT | dict(type='MAEViT'),
        aligned_blocks=[3], tap='qkv', checkpoint=str(file))
    torch.save(dict(state_dict=weights), file)
    MODELS.build(teacher).init_weights()
    del weights['layers.3.attn.qkv.bias']
    torch.save(dict(state_dict=weights), file)
    with pytest.raises(ValueError, match='layers.3.attn.qkv.bias is missing'):
        MODELS.build(teacher).init_weights()


@pytest.mark.parametrize('build, match', [
    (lambda: of_mmpretrain([3], 'qkv', type='BEiTViT'),
     "teacher.backbone: type='BEiTViT'.*bias='qv_bias'.*another backbone"),
    (lambda: of_timm([3], 'qkv', 'eva02_tiny_patch14_224.mim_in22k'),
     "model_name='eva02_tiny_.*EvaBlock.*qkv_fused=False.*another model"),
    (lambda: of_timm([3], 'qkv', 'eva_giant_patch14_224.clip_ft_in1k'),
     'biases of q and v alone'),
    (lambda: of_timm([3], 'qkv', 'vit_base_patch16_xp_224'),
     'model_name=.vit_base_patch16_xp_224.'),
    (lambda: of_mmpretrain([3], 'values', type='MAEViT'),
     "tap='values' does not exist. Choose one of 'block', 'qkv'"),
])
def test_others_are_refused(build, match):
    with pytest.raises(ValueError, match=match):
        build()


def test_heads_that_differ_are_not_known():
    layers = [dict(num_heads=heads) for heads in (2, 2, 2, 4, 2, 2)]
    build = dict(type='MAEViT', layer_cfgs=layers)
    assert of_mmpretrain([2, 3], 'qkv', **build).num_heads is None
    assert of_mmpretrain([3], 'qkv', **build).num_heads == 4


def test_layers_of_other_blocks():
    assert qkv_layers([torch.nn.Linear(1, 1)]) is None
