"""Models without pixels: what no loss reaches is frozen, or refused."""
import copy

import pytest
import torch
import torch.distributed as dist
from mmpretrain.registry import MODELS
from torch.nn.parallel import DistributedDataParallel

from tests.toys.models import HIVIT_STUDENT, TOY_MODEL

MAE = dict(
    type='MAETeacher',
    backbone=TOY_MODEL['teacher']['backbone'],
    neck=dict(
        type='MAEPretrainDecoder',
        decoder_embed_dim=24,
        decoder_depth=3,
        decoder_num_heads=2),
    allow_random=True)
NO_DECODER = dict(neck=None, head=None)
LAST = dict(aligned_layers=[(-1, 3)])
QKV = dict(distill_loss=dict(type='QKVRelationLoss'))
TOKENS = dict(distill_loss=dict(type='TokenRelationLoss'))
G2SD = dict(
    head=None,
    teacher=MAE,
    aligned_layers=[(-1, 1)],
    distill_loss=dict(type='MaskedFeatureLoss'))
BEHIND_QKV = [f'layers.3.{part}' for part in ('attn.proj', 'ln2', 'ffn')]
# Model, and what of it is frozen beside the positions.
MODELS_WITHOUT_PIXELS = {
    'blocks': (NO_DECODER | LAST, ['backbone.ln1']),
    'qkv': (NO_DECODER | LAST | QKV,
            ['backbone.ln1', *(f'backbone.{name}' for name in BEHIND_QKV)]),
    'relations of all patches': (
        NO_DECODER | LAST | TOKENS | dict(
            backbone=dict(TOY_MODEL['backbone'], mask_ratio=0.)),
        ['backbone.ln1']),
    'qkv and blocks': (
        NO_DECODER | dict(
            teacher=None,
            aligned_layers=[],
            teachers=dict(
                a=dict(teacher=TOY_MODEL['teacher']) | LAST | QKV,
                b=dict(teacher=TOY_MODEL['teacher']) | LAST)),
        ['backbone.ln1']),
    'HiViT': (NO_DECODER | LAST | TOKENS | dict(backbone=HIVIT_STUDENT), []),
    'HiViT, qkv': (
        NO_DECODER | LAST | QKV | dict(backbone=HIVIT_STUDENT),
        [f'backbone.blocks.13.{name}'
         for name in ('attn.proj', 'norm2', 'mlp')]),
    'G2SD': (G2SD, ['neck.ln1', 'neck.decoder_pred']),
}


def build(change):
    torch.manual_seed(0)
    return MODELS.build(copy.deepcopy(TOY_MODEL | change)).train()


@pytest.mark.parametrize('name', MODELS_WITHOUT_PIXELS)
def test_exactly_what_gets_no_gradient_is_frozen(name, images):
    change, frozen = MODELS_WITHOUT_PIXELS[name]
    model = build(change)
    losses = model.loss(images, None)
    assert losses and all('align' in name for name in losses)
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
        assert parameter.requires_grad != (
            name.startswith(tuple(f'{part}.' for part in frozen))
            or name.endswith('pos_embed')), name


@pytest.fixture
def one_process(tmp_path):
    dist.init_process_group(
        'gloo', init_method=f'file://{tmp_path}/rendezvous', rank=0,
        world_size=1)
    yield
    dist.destroy_process_group()


class Losses(torch.nn.Module):

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images):
        return sum(self.model.loss(images, None).values())


@pytest.mark.parametrize('name, frozen', [('qkv', 'backbone.ln1'),
                                          ('G2SD', 'neck.decoder_pred')])
def test_ddp_finds_no_unused_parameter(name, frozen, images, one_process):
    model = build(MODELS_WITHOUT_PIXELS[name][0])
    ddp = DistributedDataParallel(Losses(model))
    for _ in range(2):  # the second step would complain, as this one:
        ddp(images).backward()
    model.get_submodule(frozen).requires_grad_(True)
    ddp = DistributedDataParallel(Losses(model))
    ddp(images).backward()
    with pytest.raises(RuntimeError, match='finished reduction'):
        ddp(images)


@pytest.mark.parametrize('change, match', [
    (NO_DECODER, r'last aligned block of the backbone is 2 of 4 blocks.*Align '
     'the last one, 3, or set the num_layers of its arch to 3'),
    (NO_DECODER | QKV, 'last aligned block of the backbone is 2'),
    (dict(neck=None), 'predicts pixels from the output of a decoder.*neck='),
    (dict(head=None), "no loss reaches this decoder. Set neck=None, or give a "
     'head, or .*MaskedFeatureLoss'),
    (G2SD | dict(aligned_layers=[(0, 1)]),
     'last aligned block of the neck is 0 of 2.*set decoder_depth to 1'),
    (G2SD | dict(neck=dict(TOY_MODEL['neck'], type='CrossAttentionDecoder')),
     "compares the outputs of a decoder's blocks, which the student does not "
     'have. .*MAEPretrainDecoder'),
])
def test_what_would_be_computed_for_nothing_is_refused(change, match):
    with pytest.raises(ValueError, match=match):
        build(change)
