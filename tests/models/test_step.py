"""The training step waits for nothing and compiles to one graph.

Speed options change no number that they should not.
"""
import copy

import pytest
import torch
from mmpretrain.registry import MODELS
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.toys.models import TOY_MODEL, TWO_TEACHERS

aten = torch.ops.aten
# On a GPU, the host waits at these until all work before them is done.
WAITING = {
    aten._local_scalar_dense, aten.item, aten.is_nonzero, aten.nonzero,
    aten.equal, aten.masked_select, aten._unique, aten._unique2,
    aten.unique_dim, aten.unique_consecutive, aten.bincount,
    aten.repeat_interleave,
}
# What brings values from the host: a copy that it waits for as well.
FROM_HOST = {aten.lift_fresh, aten.lift_fresh_copy}


class NoSynchronisation(TorchDispatchMode):
    """Fails where a step would wait on a GPU."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        packet = func.overloadpacket
        assert packet not in WAITING, f'{func} waits for the device'
        assert packet not in FROM_HOST or args[0].ndim == 0, (
            f'{func} copies from the host')  # scalars go with the kernel
        if packet in (aten.index, aten.index_put, aten.index_put_):
            assert all(index.dtype != torch.bool for index in args[1]
                       if index is not None), 'a mask as an index'
        devices = {
            tensor.device
            for tensor in tree_leaves((args, kwargs))
            if isinstance(tensor, torch.Tensor) and tensor.ndim > 0
        }
        assert len(devices) <= 1, f'{func} mixes {devices}'
        return func(*args, **(kwargs or {}))


def teacher(**backbone):
    return dict(TOY_MODEL['teacher'],
                backbone=TOY_MODEL['teacher']['backbone'] | backbone)


def timm_teacher(name):
    return dict(
        type='TimmTeacher',
        model_name=name,
        # Images of another size, and another normalisation.
        model_kwargs=dict(
            embed_dim=32, depth=6, num_heads=2, img_size=64, patch_size=16),
        allow_random=True)


HIVIT = dict(
    arch=dict(embed_dims=32, depths=[1, 1, 6], num_heads=2), inner_patches=4)
NORMALISED = dict(
    type='SelfSupDataPreprocessor', mean=[127.5] * 3, std=[127.5] * 3)
LIGHT = dict(
    TOY_MODEL['neck'], type='CrossAttentionDecoder', predict_ratio=0.25)
NO_DECODER = dict(neck=None, head=None, aligned_layers=[(-1, 3)])
# The methods of other papers.
OBJECTIVES = {
    'TinyMIM': NO_DECODER | dict(
        backbone=dict(TOY_MODEL['backbone'], mask_ratio=0.),
        distill_loss=dict(type='QKVRelationLoss')),
    'QKV, timm': NO_DECODER | dict(
        data_preprocessor=NORMALISED,
        teacher=timm_teacher('vit_small_patch16_dinov3.lvd1689m'),
        distill_loss=dict(type='QKVRelationLoss')),
    'token relations': dict(
        teacher_mask_ratio=0.5, distill_loss=dict(type='TokenRelationLoss')),
    'G2SD': dict(
        head=None,
        teacher=dict(
            type='MAETeacher',
            backbone=TOY_MODEL['teacher']['backbone'],
            neck=dict(
                type='MAEPretrainDecoder', decoder_embed_dim=24,
                decoder_depth=3, decoder_num_heads=2),
            allow_random=True),
        aligned_layers=[(-1, 1)],
        distill_neck=dict(type='FeatureProjectionNeck', projector='mlp'),
        distill_loss=dict(type='MaskedFeatureLoss', positions='masked')),
    'AMD': dict(
        teacher_mask_ratio=0.5,
        distill_neck=dict(
            type='FeatureProjectionNeck', projector='linear_no_bias'),
        distill_loss=dict(
            type='FeatureAlignmentLoss', criterion='L2', normalize=False),
        generator=dict(type='FeatureGenerationNeck', num_heads=2)),
    'UNIC': dict(
        teacher=None,
        aligned_layers=[],
        teachers={
            name: dict(
                teacher=TOY_MODEL['teacher'],
                aligned_layers=[(-1, -1)],
                distill_loss=dict(
                    type='FeatureAlignmentLoss',
                    criterion=dict(cosine=0.5, smooth_L1=0.5),
                    normalize=False,
                    cls_weight=0.5),
                target=dict(type='Standardize'))
            for name in ('mae', 'dino')
        }),
}
OPTIONS = {
    'recipe': dict(),
    'control': dict(teacher=None, aligned_layers=[]),
    'bf16 teacher': dict(teacher=dict(TOY_MODEL['teacher'],
                                      dtype='bfloat16')),
    'light decoder': dict(neck=LIGHT),
    'all for speed': dict(
        neck=LIGHT, teacher=dict(TOY_MODEL['teacher'], dtype='bfloat16')),
    'pairs, mlp, cosine': dict(
        aligned_layers=[(1, 1), (3, 5)],
        distill_neck=dict(type='FeatureProjectionNeck', projector='mlp'),
        distill_loss=dict(type='FeatureAlignmentLoss', criterion='cosine')),
    'smooth L1': dict(
        distill_loss=dict(type='FeatureAlignmentLoss',
                          criterion='smooth_L1')),
    'teacher dropping': dict(
        teacher=None, aligned_layers=[], teachers=TWO_TEACHERS,
        teacher_dropping=0.5),
    'BEiT': dict(teacher=teacher(type='BEiTViT')),
    'EVA-02': dict(teacher=teacher(type='ViTEVA02')),
    'HiViT': dict(teacher=teacher(type='HiViT', **HIVIT)),
    'timm': dict(
        data_preprocessor=NORMALISED,
        teacher=timm_teacher('vit_base_patch16_224.mae')),
    'timm, rotary': dict(
        data_preprocessor=NORMALISED,
        teacher=timm_teacher('vit_small_patch16_dinov3.lvd1689m')),
    **OBJECTIVES,
}


def build(option):
    torch.manual_seed(0)
    return MODELS.build(copy.deepcopy(TOY_MODEL) | OPTIONS[option]).train()


def step(model, images, loss=None):
    """Losses and gradients, with the same mask each time."""
    torch.manual_seed(1)
    losses = (loss or model.loss)(images, None)
    model.zero_grad()
    sum(losses.values()).backward()
    gradients = {
        name: p.grad.clone()
        for name, p in model.named_parameters() if p.grad is not None
    }
    return losses, gradients


@pytest.mark.parametrize('option', OPTIONS)
def test_nothing_waits_for_the_device(option, images):
    model = build(option)
    with NoSynchronisation():
        step(model, images)


@pytest.mark.parametrize('option', ['recipe', 'control', 'light decoder'])
def test_nothing_is_made_on_another_device(option):
    """On a device without values, all that mixes devices fails."""
    change = copy.deepcopy(OPTIONS[option])
    with torch.device('meta'):
        if change.get('teacher', 0) is not None:
            change['teacher'] = dict(
                TOY_MODEL['teacher'], checkpoint='not read',
                allow_random=False)
        model = MODELS.build(copy.deepcopy(TOY_MODEL) | change).train()
    if model.teacher is not None:
        model.teacher.is_loaded = True
    images = torch.empty(3, 3, 32, 32, device='meta')
    with NoSynchronisation():
        losses, gradients = step(model, images)
    assert {t.device.type
            for t in (*losses.values(), *gradients.values())} == {'meta'}


@pytest.mark.parametrize('waits', [
    lambda x: float(x.sum()),
    lambda x: x[x > 0],
    lambda x: x + torch.tensor([1.]),
    lambda x: bool((x > 0).all()),
    lambda x: x.nonzero(),
], ids=['float', 'mask', 'constant', 'bool', 'nonzero'])
def test_waiting_would_be_noticed(waits, images):
    with NoSynchronisation(), pytest.raises(AssertionError):
        waits(images)


@pytest.mark.parametrize('option',
                         ['recipe', 'all for speed', 'teacher dropping',
                          'timm, rotary', *OBJECTIVES])
def test_the_loss_is_one_graph(option, images):
    """No graph break in student, teacher, decoder and losses."""
    torch._dynamo.reset()
    # Of another model: a step moves the statistics of targets.
    wanted = step(build(option), images)
    model = build(option)
    compiled = torch.compile(model.loss, backend='eager', fullgraph=True)
    assert_equal(step(model, images, compiled), wanted)


def assert_equal(ours, wanted):
    for mine, its in zip(ours, wanted):
        assert mine.keys() == its.keys()
        for name, tensor in its.items():
            assert torch.equal(mine[name], tensor), name


def test_bf16_teacher(images):
    """The recipe's losses to 1%, gradients of the alignment to 2%."""
    model, half = build('recipe'), build('bf16 teacher')
    (losses, gradients), (ours, its) = (
        step(model, images), step(half, images))
    assert torch.equal(ours['loss_recon'], losses['loss_recon'])
    torch.testing.assert_close(
        ours['loss_align_s2_t3'], losses['loss_align_s2_t3'], rtol=1e-2,
        atol=0)
    for name, gradient in gradients.items():
        difference = (its[name] - gradient).norm() / gradient.norm()
        # Behind the aligned block there is none of the teacher's.
        behind = name.startswith(('neck', 'backbone.layers.3',
                                  'backbone.ln1'))
        assert difference == 0 if behind else difference < 0.02, name


def test_drop_rates_are_numbers_of_python():
    """NumPy's would break the graph in every block."""
    for part in (build('recipe'), build('recipe').teacher):
        rates = [m.drop_prob for m in part.modules()
                 if hasattr(m, 'drop_prob')]
        assert rates and {type(rate) for rate in rates} == {float}
