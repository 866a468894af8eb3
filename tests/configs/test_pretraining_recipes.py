"""Pre-training models against the paper's table, in literal numbers."""
from pathlib import Path

import mmpretrain
import pytest
import torch
import yaml

from tests.toys.recipes import (BASELINES, DMAE, SIZES, build, load, shape_of,
                                visible_patches)

# Student -> teacher, aligned block of the student and of the teacher.
TEACHERS = dict(t=('b', 8, 8), s=('b', 8, 8), b=('l', 8, 17))


@pytest.mark.parametrize('name', DMAE)
def test_dmae_model(name):
    size, mask_ratio, num_visible = DMAE[name]
    teacher, student_block, teacher_block = TEACHERS[size]
    model = build(name)

    assert shape_of(model.backbone) == SIZES[size]
    assert model.backbone.patch_resolution == (14, 14)
    assert model.backbone.mask_ratio == mask_ratio
    assert visible_patches(model.backbone) == num_visible

    decoder = model.neck
    assert decoder.decoder_embed.out_features == 512
    assert len(decoder.decoder_blocks) == 8
    assert {block.attn.num_heads for block in decoder.decoder_blocks} == {16}
    assert decoder.decoder_blocks[0].ffn.layers[0][0].out_features == 2048
    assert decoder.decoder_pred.out_features == 768
    assert model.head.norm_pix is False
    assert type(model.head.loss_module.penalty) is torch.nn.MSELoss

    width, depth, heads, _ = SIZES[teacher]
    kept = shape_of(model.teacher.network)[:3]
    assert kept == (width, teacher_block + 1, heads)
    assert model.teacher.num_layers == depth
    assert model.teacher.aligned_blocks == (teacher_block, )
    assert model.distillations.loss_names == [
        f'loss_align_s{student_block}_t{teacher_block}'
    ]
    projector, = model.distill_neck.projectors
    assert type(projector) is torch.nn.Linear
    assert projector.weight.shape == (width, SIZES[size][0])
    assert model.distill_loss.criterion == 'L1'
    assert model.distill_loss.normalize is True
    assert model.distill_loss.loss_weight == 1


# Student, its heads in the last block, visible patches, those of the teacher,
# pairs, blocks of the teacher that run, its heads.
OBJECTIVES = {
    'vit-t_dmae-qkv': ('t', 12, 196, None, ['s11_t11'], 12, 12),
    'vit-s_dmae-qkv': ('s', 12, 196, None, ['s11_t11'], 12, 12),
    'vit-b_dmae-qkv': ('b', 16, 196, None, ['s11_t17'], 18, 16),
    'vit-s_dmae-amd': ('s', 6, 19, 49, ['s5_t5', 's11_t11'], 12, 12),
    'vit-b_dmae-amd': ('b', 12, 19, 49, ['s5_t11', 's11_t23'], 24, 16),
    'vit-s_dmae-g2sd': ('s', 6, 49, None, ['s7_t3'], 12, 12),
}


@pytest.mark.parametrize('name', OBJECTIVES)
def test_objectives_of_other_papers(name):
    size, heads, visible, seen, pairs, blocks, its_heads = OBJECTIVES[name]
    model = build(name)
    layers = model.backbone.layers
    width, depth, own_heads, _ = SIZES[size]
    assert (model.backbone.embed_dims, len(layers)) == (width, depth)
    assert [layer.attn.num_heads for layer in layers] == (
        [own_heads] * (depth - 1) + [heads])
    assert visible_patches(model.backbone) == visible
    part = model.distillations.by_name['']
    assert part.num_seen == seen
    assert part.loss_names == [f'loss_align_{pair}' for pair in pairs]
    network = model.teacher.network
    network = getattr(network, 'backbone', network)
    assert len(network.layers) == blocks
    assert {layer.attn.num_heads for layer in network.layers} == {its_heads}
    if 'qkv' in name:
        assert model.neck is model.head is part.neck is None
        assert model.distill_loss.num_heads == its_heads
    elif 'amd' in name:
        assert (part.loss.criterion, part.loss.normalize,
                part.loss.loss_weight) == ('L2', False, 0.5)
        assert len(part.generators) == 2
        assert all(type(each) is torch.nn.Linear and each.bias is None
                   for each in part.neck.projectors)
    else:
        assert model.head is None
        assert part.loss.positions == 'all'
        assert [type(layer).__name__ for layer in part.neck.projectors[0]
                ] == ['Linear', 'GELU', 'Linear']


def test_teacher_of_14_pixel_patches():
    """ViT-H sees the student's 14 x 14 patches in smaller images."""
    model = build('dmae/vit-b_dmae-teacher-h_in1k.py')
    teacher = model.teacher
    assert (teacher.embed_dims, teacher.num_layers) == (1280, 32)
    assert len(teacher.network.layers) == 24
    assert teacher.network.patch_embed.projection.kernel_size == (14, 14)
    assert (teacher.img_size, teacher.patch_grid) == ((196, 196), (14, 14))
    assert model.distillations.loss_names == ['loss_align_s8_t23']


@pytest.mark.parametrize('name', BASELINES)
def test_baseline_model(name):
    model = build(name)
    assert shape_of(model.backbone) == SIZES[BASELINES[name]]
    assert visible_patches(model.backbone) == 49
    assert model.teacher is None


@pytest.mark.parametrize('name, theirs', [
    ('dmae/vit-s_dmae_in1k.py',
     'mae_vit-base-p16_8xb512-amp-coslr-1600e_in1k'),
    ('dmae/vit-b_dmae_in1k.py',
     'mae_vit-large-p16_8xb512-amp-coslr-1600e_in1k'),
    ('dmae/vit-b_dmae-teacher-h_in1k.py',
     'mae_vit-huge-p16_8xb512-amp-coslr-1600e_in1k'),
    ('benchmarks/vit-s_finetune-logits_in1k.py',
     'vit-base-p16_mae-1600e-pre_8xb128-coslr-100e_in1k'),
    ('baselines/vit-s_features_in1k.py',
     'vit-base-p16_mae-1600e-pre_8xb128-coslr-100e_in1k'),
])
def test_teacher_is_the_one_in_mmpretrains_model_zoo(name, theirs):
    """Same file; where it is hosted depends on mmpretrain's version."""
    index = Path(mmpretrain.__file__).parent / '.mim/configs/mae/metafile.yml'
    weights, = (entry['Weights']
                for entry in yaml.safe_load(index.read_text())['Models']
                if entry['Name'] == theirs)
    ours = load(name).model.teacher.checkpoint
    assert ours.split('/')[-1] == weights.split('/')[-1]
