"""What of a checkpoint is in a backbone, tensor by tensor."""
import pytest
import torch
import torch.nn.functional as F
from mmengine.runner.checkpoint import load_state_dict
from mmpretrain.registry import MODELS

from dmae_mm.host import quietly
from dmae_mm.weights.transfer import (CHANGED, COMPUTED_ONLY, LEFT, LOADED,
                                      NEW, NOT_FINITE, RESIZED, SCRAMBLED,
                                      compare, file_misfits, other_windows)
from dmae_mm.weights.origin import Origin
from dmae_mm.weights.positions import PositionGrids, resampled_table

from tests.toys.models import STUDENT

TOY = dict(
    type='VisionTransformer', arch=STUDENT, img_size=32, patch_size=8)
BLOCK_NAMES = [
    f'{module}.{kind}'
    for module in ('ln1', 'attn.qkv', 'attn.proj', 'ln2', 'ffn.layers.0.0',
                   'ffn.layers.1') for kind in ('weight', 'bias')
]


def build(**options):
    torch.manual_seed(options.pop('seed', 0))
    backbone = MODELS.build(dict(TOY, **options))
    with quietly():
        backbone.init_weights()
    return backbone


def trained(**options):
    """Weights that no initialisation gives, as of pre-training."""
    generator = torch.Generator().manual_seed(1)
    return {
        f'backbone.{name}': torch.randn(tensor.shape, generator=generator)
        for name, tensor in build(**options).state_dict().items()
    }


def loaded(tensors, prefix='backbone.', **options):
    """A backbone with weights, as MMEngine loads them."""
    backbone = build(**options)
    load_state_dict(
        backbone, {
            name[len(prefix):]: tensor
            for name, tensor in tensors.items() if name.startswith(prefix)
        })
    return backbone


def status(transfer):
    return {row.name: row.status for row in transfer.rows}


def test_all_of_it():
    tensors = dict(trained(), **{'neck.mask_token': torch.ones(1)})
    transfer = compare(loaded(tensors), tensors, 'backbone.')
    names = ['cls_token', 'pos_embed', 'ln1.weight', 'ln1.bias'] + [
        f'patch_embed.projection.{kind}' for kind in ('weight', 'bias')
    ] + [f'layers.{i}.{name}' for i in range(4) for name in BLOCK_NAMES]
    assert sorted(transfer.names(LOADED)) == sorted(names)
    assert len(transfer.rows) == len(names) and transfer.arrived
    assert transfer.beside == {'neck.mask_token': (1, )}
    assert not transfer.lost and not transfer.dropped


def test_nothing_of_it_though_constants_agree():
    """Zeros and ones are in every initialised network, and in this file."""
    fresh = {f'backbone.{k}': v for k, v in build().state_dict().items()}
    backbone = build(seed=5)
    assert torch.equal(backbone.layers[0].ln1.weight,
                       fresh['backbone.layers.0.ln1.weight'])
    transfer = compare(backbone, fresh, 'backbone.')
    assert set(status(transfer).values()) == {LEFT}
    assert not transfer.arrived
    assert compare(loaded(fresh), fresh, 'backbone.').arrived


def test_the_prefix_that_a_host_finds_for_itself():
    tensors = trained()
    transfer = compare(loaded(tensors), tensors, '')
    assert transfer.prefix == 'backbone.' and transfer.arrived
    assert compare(build(), tensors, '').prefix == ''


@pytest.mark.parametrize('name', ['ln1.bias', 'layers.2.attn.qkv.weight'])
def test_one_tensor(name):
    """Missing in the file, overwritten, of another shape, or not finite."""
    tensors = trained()
    backbone = loaded(tensors)
    given = tensors.pop(f'backbone.{name}')

    def others_arrived(transfer, found):
        rest = status(transfer)
        assert rest.pop(name) == found and set(rest.values()) == {LOADED}
        assert not transfer.arrived
        return True

    assert others_arrived(compare(backbone, tensors, 'backbone.'), LEFT)
    tensors[f'backbone.{name}'] = given + 1e-6
    assert others_arrived(compare(backbone, tensors, 'backbone.'), CHANGED)
    tensors[f'backbone.{name}'] = given[1:]
    assert others_arrived(compare(backbone, tensors, 'backbone.'), LEFT)
    tensors[f'backbone.{name}'] = given.clone()
    tensors[f'backbone.{name}'][0] = torch.inf
    backbone = loaded(tensors)  # the infinity itself arrives
    assert others_arrived(compare(backbone, tensors, 'backbone.'), NOT_FINITE)


def test_half_precision():
    tensors = {name: tensor.half() for name, tensor in trained().items()}
    assert compare(loaded(tensors), tensors, 'backbone.').arrived


@pytest.mark.parametrize('options, shape', [
    (dict(img_size=64), (1, 65, 24)),
    (dict(img_size=(64, 16)), (1, 17, 24)),
    (dict(img_size=48, interpolate_mode='bilinear'), (1, 37, 24)),
    (dict(with_cls_token=False, out_type='raw'), (1, 16, 24)),
    (dict(type='WindowedViT'), (1, 4, 4, 24)),
    (dict(type='WindowedViT', img_size=(64, 16)), (1, 8, 2, 24)),
])
def test_positions_are_resampled_here(options, shape):
    tensors = trained()
    backbone = loaded(tensors, **options)
    transfer = compare(backbone, tensors, 'backbone.')
    assert backbone.pos_embed.shape == shape
    resized, = (row for row in transfer.rows if row.name == 'pos_embed')
    # Of 64 x 16 pixels, too, there are 16 patches, and the host resamples
    # only where that number differs.
    same = shape == (1, 17, 24)
    assert resized.status == (SCRAMBLED if same else RESIZED)
    assert resized.shape_in_file == (1, 17, 24)
    assert transfer.arrived is not same
    if not same:
        with torch.no_grad():
            backbone.pos_embed.flatten()[7] += 1e-3
        transfer = compare(backbone, tensors, 'backbone.')
        assert transfer.names(LEFT) == ['pos_embed']


def resampled(backbone, given, shape):
    weights = dict(pos_embed=given, cls_token=torch.zeros(1, 1, 24))
    grids = PositionGrids.of(backbone, 'pos_embed', weights, Origin())
    return grids.resampled(given, shape)


def test_resampling_by_another_way():
    """Against PyTorch's own function: CLS stays, the grid is resampled."""
    given = torch.randn(1, 17, 24)
    grid = given[0, 1:].T.reshape(1, 24, 4, 4)
    wanted = F.interpolate(grid, (8, 8), mode='bicubic', align_corners=False)
    found = resampled(build(img_size=64), given, (1, 65, 24))
    assert torch.equal(found[:, 0], given[:, 0])
    torch.testing.assert_close(found[0, 1:].T.reshape(1, 24, 8, 8), wanted)
    # To a network without CLS, and as a table of relative positions.
    windowed = build(type='WindowedViT', img_size=64)
    found = resampled(windowed, given, (1, 8, 8, 24))
    torch.testing.assert_close(found.permute(0, 3, 1, 2), wanted)
    found = resampled_table(given[0, 1:], (64, 24))
    torch.testing.assert_close(found.T.reshape(1, 24, 8, 8), wanted)


@pytest.mark.parametrize('options', [
    dict(), dict(with_cls_token=False, out_type='raw'), dict(type='DeiT3')])
def test_as_many_patches_of_another_grid(options):
    """A square of 4 x 4 to 2 x 8 patches, and, where it is said, back."""
    prefix = 0 if options else 1
    for own, source in (((2, 8), (4, 4)), ((4, 4), (2, 8)), ((8, 2), (2, 8))):
        backbone = build(img_size=(8 * own[0], 8 * own[1]), **options)
        given = torch.randn(1, prefix + 16, 24)
        origin = Origin(patch_size=(8, 8))
        if source != (4, 4):
            origin = Origin((8 * source[0], 8 * source[1]), (8, 8))
        wanted = F.interpolate(
            given[0, prefix:].T.reshape(1, 24, *source), own, mode='bicubic',
            align_corners=False)[0].flatten(1).T
        tensors = dict(backbone.state_dict(), pos_embed=given)
        for positions, status in ((given[0], SCRAMBLED),
                                  (torch.cat([given[0, :prefix], wanted]),
                                   RESIZED),
                                  (torch.randn(prefix + 16, 24), LEFT)):
            backbone.pos_embed.data.copy_(positions[None])
            rows = compare(backbone, tensors, '', origin).rows
            assert [row.status for row in rows
                    if row.name == 'pos_embed'] == [status]
        if own != (4, 4):  # its own, if it says so
            backbone.pos_embed.data.copy_(given)
            origin = Origin(backbone.img_size, (8, 8))
            assert compare(backbone, tensors, '', origin).arrived


def test_one_position_more_is_not_always_that_of_cls():
    """4 x 4 patches without CLS are one more than 3 x 5: the host drops the
    first and takes the rest as they are."""
    options = dict(with_cls_token=False, out_type='raw')
    given = build(**options).state_dict()
    backbone = build(img_size=(24, 40), seed=1, **options)
    backbone.load_state_dict(given)
    assert torch.equal(backbone.pos_embed, given['pos_embed'][:, 1:])
    assert compare(backbone, given, '').names(SCRAMBLED) == ['pos_embed']
    # With CLS, the first is its position, and 3 x 5 may be those of the file.
    given = build(img_size=(24, 40)).state_dict()
    backbone.load_state_dict(given, strict=False)
    assert compare(backbone, given, '').names(RESIZED) == ['pos_embed']


@pytest.mark.parametrize('given, shape', [
    ((1, 17, 24), (1, 65, 32)),  # another width
    ((1, 18, 24), (1, 65, 24)),  # no square
    ((1, 15, 24), (1, 8, 8, 24)),
    ((24, ), (24, )),
])
def test_what_is_not_on_a_grid(given, shape):
    backbone = build(img_size=64)
    if len(shape) == 4:
        backbone = build(type='WindowedViT', img_size=64)
    backbone.pos_embed.data = torch.randn(shape)
    assert PositionGrids.of(backbone, 'pos_embed',
                            dict(pos_embed=torch.randn(given)),
                            Origin()) is None
    assert resampled_table(torch.randn(given), shape) is None


def test_what_no_pretraining_has():
    tensors = trained()
    backbone = loaded(
        tensors, out_type='avg_featmap', final_norm=False)
    transfer = compare(backbone, tensors, 'backbone.')
    assert transfer.names(NEW) == ['ln2.weight', 'ln2.bias']
    assert transfer.dropped == {'ln1.weight': (24, ), 'ln1.bias': (24, )}
    assert transfer.arrived
    tables = dict(type='WindowedViT', use_rel_pos=True)
    backbone = loaded(tensors, **tables)
    transfer = compare(backbone, tensors, 'backbone.')
    assert len(transfer.names(NEW)) == 8 and transfer.arrived
    assert list(transfer.dropped) == ['cls_token', 'ln1.weight', 'ln1.bias']
    with torch.no_grad():
        backbone.layers[1].attn.rel_pos_h[2, 3] = 1.
    transfer = compare(backbone, tensors, 'backbone.')
    assert transfer.names(LEFT) == ['layers.1.attn.rel_pos_h']


@pytest.mark.parametrize('value, arrived', [(1., True), (.1, False)])
def test_layer_scale_of_one_is_as_good_as_none(value, arrived):
    tensors = trained()
    backbone = loaded(tensors, layer_scale_init_value=value)
    transfer = compare(backbone, tensors, 'backbone.')
    assert len(transfer.names(NEW if arrived else LEFT)) == 8
    assert transfer.arrived is arrived
    assert bool(file_misfits(backbone, tensors, 'backbone.')) is not arrived


def test_what_the_file_has_and_the_backbone_has_not():
    tensors = trained(arch=dict(STUDENT, num_layers=5))
    tensors['backbone.pre_norm.weight'] = torch.ones(24)
    tensors['backbone.mask_token'] = torch.ones(1, 1, 24)
    backbone = loaded(tensors)
    transfer = compare(backbone, tensors, 'backbone.')
    assert set(transfer.lost) == {'pre_norm.weight'} | {
        f'layers.4.{name}' for name in BLOCK_NAMES
    }
    assert list(transfer.beside) == ['mask_token']
    assert set(status(transfer).values()) == {LOADED}
    assert not transfer.arrived
    problems = file_misfits(backbone, tensors, 'backbone.')
    assert problems[0] == 'the file has 5 blocks instead of 4'
    assert 'pre_norm.weight has no place in it' in problems
    assert len(problems) == 2 + len(BLOCK_NAMES)


def test_computed_values_may_differ():
    hivit = dict(
        type='HiViT',
        arch=dict(embed_dims=24, depths=[1, 1, 2], num_heads=2),
        img_size=32,
        patch_size=8,
        rpe=True)
    generator = torch.Generator().manual_seed(1)
    source = MODELS.build(hivit).state_dict()
    tensors = {
        f'backbone.{name}': torch.randn(tensor.shape, generator=generator)
        if tensor.is_floating_point() else tensor
        for name, tensor in source.items()
    }
    index = tensors.pop('backbone.relative_position_index')
    backbone = MODELS.build(hivit)
    load_state_dict(backbone, {k[9:]: v for k, v in tensors.items()})
    transfer = compare(backbone, tensors, 'backbone.')
    assert transfer.names(COMPUTED_ONLY) == ['relative_position_index']
    assert len(transfer.names(LOADED)) == len(tensors) and transfer.arrived
    tensors['backbone.relative_position_index'] = index + 1
    transfer = compare(backbone, tensors, 'backbone.')
    assert transfer.names(COMPUTED_ONLY) == ['relative_position_index']


TOY_SWIN = dict(
    type='SwinTransformer',
    arch=dict(embed_dims=12, depths=[1] * 4, num_heads=[1, 2, 3, 4]))


def swin(seed=0, **options):
    torch.manual_seed(seed)
    backbone = MODELS.build(dict(TOY_SWIN, **options))
    with quietly():
        backbone.init_weights()
    return backbone


def test_computed_values_alone_are_no_sign_of_loading():
    """A Swin's indices are the same in each, loaded or not."""
    given = swin().state_dict()
    transfer = compare(swin(seed=1), given, '')
    assert not transfer.arrived and not transfer.names(CHANGED)
    assert len(transfer.names(LEFT)) == len(given)


def test_norms_of_stages():
    """New where a backbone alone has them, dropped where the file does."""
    last, four = swin(), swin(seed=1, out_indices=[0, 1, 2, 3])
    norms = [
        f'norm{stage}.{kind}' for stage in range(3)
        for kind in ('weight', 'bias')
    ]
    four.load_state_dict(last.state_dict(), strict=False)
    transfer = compare(four, last.state_dict(), '')
    assert transfer.names(NEW) == norms and transfer.arrived
    with torch.no_grad():
        four.norm1.bias[3] = 1.  # trained, but not by this file
    transfer = compare(four, last.state_dict(), '')
    assert transfer.names(LEFT) == ['norm1.bias']
    transfer = compare(last, four.state_dict(), '')
    assert list(transfer.dropped) == norms
    assert file_misfits(last, four.state_dict(), '') == []


def test_windows_of_a_swin():
    given = swin(window_size=4).state_dict()
    assert other_windows(swin(), given) == (4, 7)
    assert other_windows(swin(window_size=4), given) is None
    assert other_windows(build(), given) is None
    assert file_misfits(swin(), given, '') == [
        'it is for windows of 4 x 4 instead of 7 x 7']


@pytest.mark.parametrize('lost', [
    'bn1.weight', 'bn1.running_mean', 'layer3.0.bn2.running_var', None])
def test_statistics_of_batch_norms(lost):
    """They count as weights; the number of batches does not."""
    resnet = MODELS.build(
        dict(type='ResNet', depth=18, base_channels=4, stem_channels=4))
    given = {
        name: torch.rand(tensor.shape) if tensor.is_floating_point() else
        tensor + 5 for name, tensor in resnet.state_dict().items()
    }
    count = given.pop('bn1.num_batches_tracked')
    given.pop(lost, None)
    resnet.load_state_dict(given, strict=False)
    transfer = compare(resnet, given, '')
    assert transfer.names(LEFT) == ([lost] if lost else [])
    assert transfer.names(COMPUTED_ONLY) == ['bn1.num_batches_tracked']
    assert transfer.arrived is (lost is None)
    assert file_misfits(resnet, given, '') == (
        [f'{lost} is missing'] if lost else [])
    # A file that has another number is as good.
    assert compare(resnet, {**given, 'bn1.num_batches_tracked': count}, ''
                   ).names(COMPUTED_ONLY) == ['bn1.num_batches_tracked']
