"""The teacher sees what it should and is what it should be."""
import copy

import pytest
import timm
import torch
from mmpretrain.models.utils import resize_pos_embed
from mmpretrain.registry import MODELS

from dmae_mm.models import Teacher
from dmae_mm.models.student_input import StudentInput
from tests.toys.models import HIVIT_TEACHER, TEACHER, randomize

VIT = dict(arch=TEACHER, img_size=32, patch_size=8)


def build(type='MAEViT', blocks=(3, ), teacher=dict(), **kwargs):
    return MODELS.build(
        dict(
            type='MMPretrainTeacher',
            backbone=dict(VIT, type=type) | kwargs,
            aligned_blocks=blocks,
            allow_random=True,
            **teacher))


VARIANTS = [
    dict(type='MAEViT'),
    dict(type='VisionTransformer'),
    dict(type='VisionTransformer', layer_scale_init_value=1e-5),  # DINOv2
    dict(
        type='VisionTransformer',
        with_cls_token=False,
        layer_scale_init_value=0.1),
    dict(type='VisionTransformer', pre_norm=True),  # CLIP
    dict(type='DistilledVisionTransformer'),
    dict(type='DeiT3'),
    dict(type='DeiT3', with_cls_token=False),
    dict(type='BEiTViT'),
    dict(
        type='BEiTViT', use_rel_pos_bias=False, use_shared_rel_pos_bias=True),
    dict(type='BEiTViT', use_rel_pos_bias=False, use_abs_pos_emb=True),
    dict(type='ViTEVA02', sub_ln=True),
    dict(type='ViTEVA02', with_cls_token=False),
    dict(type='HiViT', **HIVIT_TEACHER),
    dict(type='MAEHiViT', **HIVIT_TEACHER),
]
PREFIX_TOKENS = [1, 1, 1, 0, 1, 2, 1, 0, 1, 1, 1, 1, 0, 0, 0]


def whole_backbone(variant, teacher):
    """The stock backbone, whole, with the teacher's weights."""
    hierarchical = 'HiViT' in variant['type']
    options = dict(out_indices=[7]) if hierarchical else dict(
        out_type='raw', final_norm=False)
    whole = MODELS.build(dict(VIT, **options) | variant)
    whole.load_state_dict(teacher.network.state_dict(), strict=False)
    whole.eval()
    return whole


@torch.no_grad()
def block_outputs(whole, images):
    """Outputs of blocks 1 and 3 in a stock forward pass."""
    blocks = whole.blocks[-8:] if hasattr(whole, 'blocks') else whole.layers
    outputs = {}
    for index in (1, 3):
        blocks[index].register_forward_hook(
            lambda module, args, output, index=index: outputs.update(
                {index: output}))
    masked = type(whole).__name__.startswith('MAE')
    whole(images, **(dict(mask=None) if masked else {}))
    return outputs[1], outputs[3]


@pytest.mark.parametrize('variant, prefix',
                         list(zip(VARIANTS, PREFIX_TOKENS)))
def test_all_patches_kept_equals_the_backbone_itself(variant, prefix, images):
    """Block for block, against the stock forward pass of the full model."""
    teacher = build(blocks=(1, 3), **variant)
    randomize(teacher.network)
    wanted = block_outputs(whole_backbone(variant, teacher), images)
    ids_keep = torch.arange(16).expand(3, -1)
    for ids in (ids_keep, None):
        for feature, expected in zip(teacher(images, ids), wanted):
            torch.testing.assert_close(
                feature, expected, rtol=1e-5, atol=1e-5)
            assert feature.shape == (3, prefix + 16, 32)
    assert teacher.num_prefix_tokens == prefix
    assert teacher.has_cls_token == (prefix > 0)


@pytest.mark.parametrize('variant', VARIANTS)
def test_hidden_patches_do_not_matter(variant, images):
    teacher = build(**variant)
    randomize(teacher.network)
    ids_keep = torch.tensor([[0, 5, 9], [15, 1, 2], [3, 4, 12]])
    changed = images.clone()
    changed[0, :, 8:16, 16:24] += 9.  # patch 6 of image 0: hidden
    before, = teacher(images, ids_keep)
    after, = teacher(changed, ids_keep)
    prefix = teacher.num_prefix_tokens
    assert before.shape == (3, prefix + 3, 32)
    assert torch.equal(before, after)
    changed[0, :, 8:16, 8:16] += 9.  # patch 5 of image 0: visible
    after, = teacher(changed, ids_keep)
    assert not torch.allclose(before[0], after[0])
    assert torch.equal(before[1:], after[1:])


@pytest.mark.parametrize('variant', VARIANTS)
def test_patches_come_in_the_order_of_ids_keep(variant, images):
    """And take their positions along, whatever kind these are."""
    teacher = build(**variant)
    randomize(teacher.network)
    ids_keep = torch.tensor([[0, 5, 9], [3, 2, 1], [7, 15, 8]])
    order = torch.tensor([[2, 0, 1], [0, 2, 1], [1, 2, 0]])
    straight, = teacher(images, ids_keep)
    swapped, = teacher(images, ids_keep.gather(1, order))
    prefix = teacher.num_prefix_tokens
    torch.testing.assert_close(swapped[:, :prefix], straight[:, :prefix])
    torch.testing.assert_close(
        swapped[:, prefix:],
        straight[:, prefix:].gather(1, order.unsqueeze(2).expand(-1, -1, 32)))


def test_blocks_after_the_last_aligned_one_do_not_exist():
    teacher = build(blocks=(1, 3))
    network = teacher.network
    assert teacher.num_layers == 6
    assert len(network.layers) == 4
    assert not hasattr(network, 'ln1')
    # Per block of width 32: qkv, attention's projection, two MLP layers and
    # two norms; before the blocks: patches, CLS and 17 positions.
    block = 3 * 32 * 33 + 32 * 33 + 128 * 33 + 32 * 129 + 4 * 32
    stem = 32 * 3 * 64 + 32 + 32 + 17 * 32
    assert sum(p.numel() for p in teacher.parameters()) == stem + 4 * block


def test_one_feature_for_each_pair_in_their_order(images):
    teacher = build(blocks=(3, 1, 3))
    ids_keep = torch.arange(4).expand(3, -1)
    last, first, again = teacher(images, ids_keep)
    assert last is again
    alone = build(blocks=(1, ))
    alone.network.load_state_dict(teacher.network.state_dict(), strict=False)
    assert torch.equal(first, alone(images, ids_keep)[0])


def test_frozen_and_in_eval_mode_for_ever(images):
    teacher = build(drop_rate=.5, drop_path_rate=.5)
    assert teacher.train(True) is teacher
    assert not any(module.training for module in teacher.modules())
    assert not any(p.requires_grad for p in teacher.parameters())
    ids_keep = torch.arange(4).expand(3, -1)
    first, second = (teacher(images, ids_keep)[0] for _ in range(2))
    assert torch.equal(first, second)
    assert not first.requires_grad


def test_a_deep_copy_is_the_teacher_itself():
    teacher = build()
    assert copy.deepcopy(dict(a=[teacher]))['a'][0] is teacher


def test_random_weights_are_the_same_every_time_and_cost_no_random_state():
    torch.manual_seed(11)
    first = build().state_dict()
    drawn = torch.rand(1)
    torch.manual_seed(11)
    assert torch.equal(drawn, torch.rand(1))
    torch.manual_seed(12)
    second = build().state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert first['network.pos_embed'].std() > 0


def test_fingerprint_follows_weights_and_blocks():
    teacher = build()
    fingerprint = teacher.fingerprint()
    assert fingerprint == build().fingerprint()
    assert fingerprint != build(blocks=(2, )).fingerprint()
    teacher.network.cls_token.data.view(-1)[0] += 1e-6
    assert fingerprint != teacher.fingerprint()


def test_the_callers_config_is_not_changed():
    cfg = dict(
        type='MMPretrainTeacher',
        backbone=dict(type='MAEViT', **copy.deepcopy(VIT)),
        aligned_blocks=[-1],
        allow_random=True)
    before = copy.deepcopy(cfg)
    MODELS.build(cfg)
    assert cfg == before


@pytest.mark.parametrize('change, message', [
    (dict(type='ResNet'), "'ResNet'.*MAEViT.*VisionTransformer"),
    (dict(type='NoSuchNet'), "'NoSuchNet'.*MAEViT.*VisionTransformer"),
    (dict(type='MILANViT'), "'MILANViT'.*MAEViT.*VisionTransformer"),
    (dict(type='VisionTransformer', patch_cfg=dict(kernel_size=12, padding=2)),
     'patches overlap.*12.*hidden'),
    (dict(HIVIT_TEACHER, type='HiViT', rpe=True), 'rpe=True.*all patches'),
    (dict(type='BEiTViT', with_cls_token=False), 'need CLS'),
    (dict(arch='vit-b'), "arch='vit-b'.*'?deit-small"),
])
def test_illegal_backbones(change, message):
    with pytest.raises(ValueError, match=message):
        MODELS.build(
            dict(
                type='MMPretrainTeacher',
                backbone=dict(VIT, type='MAEViT') | change,
                aligned_blocks=[0],
                allow_random=True))


@pytest.mark.parametrize('grid', [(6, 6), (3, 5), (2, 8)])
@pytest.mark.parametrize('variant', [
    variant for variant in VARIANTS if 'HiViT' not in variant['type']
])
def test_another_grid_is_the_libraries_own_resampling(variant, grid, tmp_path):
    """From a file with 4 x 4 patches to a student with another grid."""
    own = build(blocks=(1, 3), **variant)
    randomize(own.network)
    whole = whole_backbone(variant, own)
    torch.save(whole.state_dict(), tmp_path / 'vit.pth')
    side = 10  # of a student's patch in pixels; the teacher's is 8
    student = StudentInput((grid[0] * side, grid[1] * side), grid, 3)
    options = dict(
        student_input=student,
        checkpoint=str(tmp_path / 'vit.pth'),
    )
    if grid[0] != grid[1] and variant['type'] == 'MAEViT':
        with pytest.raises(ValueError, match='squares only'):
            build(blocks=(1, 3), teacher=options, **variant)
        return
    teacher = build(blocks=(1, 3), teacher=options, **variant)
    teacher.init_weights()
    assert teacher.img_size == (grid[0] * 8, grid[1] * 8)
    wanted_cfg = dict(
        VIT, out_type='raw', final_norm=False) | variant | dict(
            img_size=teacher.img_size)
    resampled = MODELS.build(wanted_cfg)
    weights = {
        name: tensor
        for name, tensor in whole.state_dict().items()
        if 'rope' not in name and 'relative_position_index' not in name
    }
    for name in weights:
        if 'relative_position_bias_table' in name:
            weights[name] = timm.layers.resize_rel_pos_bias_table(
                weights[name], grid,
                resampled.state_dict()[name].shape)
    if 'pos_embed' in weights:
        # Loading resamples them as well, but takes the first of 4 x 4 for
        # that of CLS where 3 x 5 are wanted and there is no CLS.
        weights['pos_embed'] = resize_pos_embed(
            weights['pos_embed'], (4, 4), grid,
            num_extra_tokens=weights['pos_embed'].shape[1] - 16)
    resampled.load_state_dict(weights, strict=False)
    resampled.eval()
    images = torch.randn(2, 3, *student.img_size)
    wanted = block_outputs(
        resampled,
        torch.nn.functional.interpolate(
            images, size=teacher.img_size, mode='bicubic', antialias=True))
    ids_keep = torch.arange(grid[0] * grid[1]).expand(2, -1)
    for feature, expected in zip(teacher(images, ids_keep), wanted):
        torch.testing.assert_close(feature, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('type', ['HiViT', 'MAEHiViT'])
def test_hierarchical_teachers_keep_their_grid(type):
    with pytest.raises(ValueError, match='4 x 4 patches.*5 x 5.*resampled'):
        build(
            teacher=dict(student_input=StudentInput((40, 40), (5, 5), 3)),
            type=type,
            **HIVIT_TEACHER)


@pytest.mark.parametrize('variant', VARIANTS)
@pytest.mark.parametrize('dtype, tolerance', [('bfloat16', .02),
                                              ('float16', .002)])
def test_half_precision_halves_the_memory(variant, dtype, tolerance, images):
    exact = build(**variant)
    randomize(exact.network)
    half = build(teacher=dict(dtype=dtype), **variant)
    half.network.load_state_dict(exact.network.state_dict())
    sizes = [sum(p.nbytes for p in t.parameters()) for t in (exact, half)]
    assert sizes[0] == 2 * sizes[1]
    ids_keep = torch.arange(5).expand(3, -1)
    full, = exact(images, ids_keep)
    feature, = half(images, ids_keep)
    assert feature.dtype == torch.float32
    assert 0 < (feature - full).norm() / full.norm() < tolerance


def test_half_precision_ignores_the_students_autocast(images):
    teacher = build(teacher=dict(dtype='float16'))
    ids_keep = torch.arange(5).expand(3, -1)
    alone, = teacher(images, ids_keep)
    with torch.autocast('cpu', torch.bfloat16):
        inside, = teacher(images, ids_keep)
    assert torch.equal(alone, inside)


def test_a_teacher_of_ones_own_must_have_the_students_grid():

    class Own(Teacher):
        load_weights = extract_features = None

    with pytest.raises(ValueError, match='grid is 8 x 8, the student has 4'):
        Own(torch.nn.Linear(1, 1), [0], embed_dims=32, num_layers=6,
            num_prefix_tokens=1, has_cls_token=True, img_size=(32, 32),
            patch_grid=(8, 8), allow_random=True,
            student_input=StudentInput((32, 32), (4, 4), 3))  # yapf: disable


def test_a_teacher_of_ones_own_must_load_all_its_weights(tmp_path):

    class Own(Teacher):
        extract_features = None

        def load_weights(self, file):
            self.network.bias.data.copy_(file.tensors['bias'])

    torch.save(dict(bias=torch.zeros(1)), tmp_path / 'own.pth')
    teacher = Own(
        torch.nn.Linear(1, 1), [0], img_size=(32, 32),
        checkpoint=str(tmp_path / 'own.pth'))
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    with pytest.raises(ValueError, match='1 of 2 parameters.*own.pth.*weight'):
        teacher.init_weights()
    assert not teacher.is_loaded
    assert all(
        torch.equal(before[k], v) for k, v in teacher.state_dict().items())


def test_a_grey_student_shows_its_channel_three_times(images):
    student = StudentInput((32, 32), (4, 4), 1, mean=(100., ), std=(50., ))
    teacher = build(teacher=dict(
        student_input=student, mean=[100.] * 3, std=[50.] * 3))
    colour = build()
    colour.network.load_state_dict(teacher.network.state_dict())
    grey = images[:, :1]
    assert torch.equal(
        teacher(grey)[0], colour(grey.expand(-1, 3, -1, -1))[0])


def test_no_checkpoint_is_an_error():
    with pytest.raises(ValueError, match='checkpoint=None.*allow_random=True'):
        MODELS.build(
            dict(
                type='MMPretrainTeacher',
                backbone=dict(type='MAEViT', **VIT),
                aligned_blocks=[0]))
