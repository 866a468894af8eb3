"""Each ablation is the named option away from its base, in literal numbers.

Models are built without memory for their weights. test_ablation_runs.py
trains each of them at toy size.
"""
import math
from pathlib import Path
from types import SimpleNamespace

import mmpretrain
import pytest
import torch
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner

from .recipes import ABLATIONS, SIZES, build, differences, load

L_FROM_MMPRETRAIN = (
    'https://mmassets.onedl.ai/mmselfsup/1.x/mae/'
    'mae_vit-large-p16_8xb512-fp16-coslr-1600e_in1k/'
    'mae_vit-large-p16_8xb512-fp16-coslr-1600e_in1k_20220825-cc7e98c9.pth')

# Name -> what differs from vit-{t,s,b}_dmae_in1k.py, by dotted option.
PAIRS = {
    'b_dmae-depth25': [(0.25, 0.25)],
    'b_dmae-depth50': [(0.5, 0.5)],
    'b_dmae-depth100': [(1.0, 1.0)],
    'b_dmae-pairs2': [(0.5, 0.5), (0.75, 0.75)],
    'b_dmae-pairs3': [(0.25, 0.25), (0.5, 0.5), (0.75, 0.75)],
}
CHANGES = {
    **{name: {'aligned_layers': pairs} for name, pairs in PAIRS.items()},
    'b_dmae-mlp': {'distill_neck.projector': 'mlp'},
    'b_dmae-mlp2': {'distill_neck.projector': 'mlp2'},
    'b_dmae-l1-raw': {'distill_loss.normalize': False},
    'b_dmae-l2': {'distill_loss.criterion': 'L2'},
    'b_dmae-l2-raw': {'distill_loss.criterion': 'L2',
                      'distill_loss.normalize': False},
    'b_dmae-smoothl1': {'distill_loss.criterion': 'smooth_L1'},
    'b_dmae-cosine': {'distill_loss.criterion': 'cosine'},
    'b_dmae-weight-half': {'distill_loss.loss_weight': 0.5},
    'b_dmae-weight-double': {'distill_loss.loss_weight': 2.0},
    'b_dmae-decoder2': {'neck.decoder_depth': 2},
    'b_dmae-light-decoder': {'neck.type': 'CrossAttentionDecoder',
                             'neck.predict_ratio': 0.25},
}  # yapf: disable
TO_B = {'teacher.backbone.arch': 'b',
        'teacher.checkpoint':
        load('dmae/vit-s_dmae_in1k.py').model.teacher.checkpoint}
TO_L = {'teacher.backbone.arch': 'l',
        'teacher.checkpoint': L_FROM_MMPRETRAIN}
TO_H = {'teacher.backbone.arch': 'h', 'teacher.backbone.patch_size': 14,
        'teacher.checkpoint': 'https://mmassets.onedl.ai/mmselfsup/1.x/mae/'
        'mae_vit-huge-p16_8xb512-fp16-coslr-1600e_in1k/'
        'mae_vit-huge-p16_8xb512-fp16-coslr-1600e_in1k_20220916-ff848775.pth'}
CHANGES.update({
    't_dmae-teacher-l': TO_L,
    't_dmae-teacher-h': TO_H,
    's_dmae-teacher-l': TO_L,
    's_dmae-teacher-h': TO_H,
    'b_dmae-teacher-b': TO_B,
    'b_dmae-teacher-b-identity': {**TO_B, 'distill_neck.projector': 'identity',
                                  'distill_loss.normalize': False},
    'b_dmae-teacher-h': TO_H,
})  # yapf: disable
EPOCHS = {
    f'{size}_dmae-{epochs}e': epochs
    for size in 'tsb' for epochs in (200, 300, 400)
}

# What the built model of vit-b_dmae_in1k.py has, and what others change.
BASE = dict(
    student=SIZES['b'],
    losses=['loss_align_s8_t17'],
    teacher=(1024, 18, 16),  # width, blocks that are kept, heads
    teacher_images=(224, 224),
    projectors=[[(768, 1024)]],
    loss=('L1', True, 1.0, None),
    decoder=8)
MODELS = {
    'b_dmae-depth25': dict(losses=['loss_align_s2_t5'], teacher=(1024, 6, 16)),
    'b_dmae-depth50': dict(losses=['loss_align_s5_t11'],
                           teacher=(1024, 12, 16)),
    'b_dmae-depth100': dict(losses=['loss_align_s11_t23'],
                            teacher=(1024, 24, 16)),
    'b_dmae-pairs2': dict(losses=['loss_align_s5_t11', 'loss_align_s8_t17'],
                          projectors=2 * [[(768, 1024)]]),
    'b_dmae-pairs3': dict(losses=['loss_align_s2_t5', 'loss_align_s5_t11',
                                  'loss_align_s8_t17'],
                          projectors=3 * [[(768, 1024)]]),
    'b_dmae-mlp': dict(projectors=[[(768, 1024), 'GELU', (1024, 1024)]]),
    'b_dmae-mlp2': dict(projectors=[[(768, 1024), 'GELU', (1024, 1024),
                                     (1024, 1024), 'GELU', (1024, 1024)]]),
    'b_dmae-l1-raw': dict(loss=('L1', False, 1.0, None)),
    'b_dmae-l2': dict(loss=('L2', True, 1.0, None)),
    'b_dmae-l2-raw': dict(loss=('L2', False, 1.0, None)),
    'b_dmae-smoothl1': dict(loss=('smooth_L1', True, 1.0, None)),
    'b_dmae-cosine': dict(loss=('cosine', True, 1.0, None)),
    'b_dmae-weight-half': dict(loss=('L1', True, 0.5, None)),
    'b_dmae-weight-double': dict(loss=('L1', True, 2.0, None)),
    'b_dmae-decoder2': dict(decoder=2),
    'b_dmae-light-decoder': {},
    't_dmae-teacher-l': dict(student=SIZES['t'], projectors=[[(192, 1024)]]),
    's_dmae-teacher-l': dict(student=SIZES['s'], projectors=[[(384, 1024)]]),
    'b_dmae-teacher-b': dict(losses=['loss_align_s8_t8'],
                             teacher=(768, 9, 12), projectors=[[(768, 768)]]),
    'b_dmae-teacher-b-identity': dict(
        losses=['loss_align_s8_t8'], teacher=(768, 9, 12),
        projectors=[['Identity']], loss=('L1', False, 1.0, None)),
    **{f'{size}_dmae-teacher-h': dict(
        student=SIZES[size], losses=['loss_align_s8_t23'],
        teacher=(1280, 24, 16), teacher_images=(196, 196),
        projectors=[[(SIZES[size][0], 1280)]]) for size in 'tsb'},
    **{f'b_dmae-{epochs}e': {} for epochs in (200, 300, 400)},
    **{f'{size}_dmae-{epochs}e': dict(
        student=SIZES[size], losses=['loss_align_s8_t8'], teacher=(768, 9, 12),
        projectors=[[(SIZES[size][0], 768)]])
       for size in 'ts' for epochs in (200, 300, 400)},
}  # yapf: disable


def path_of(name: str) -> str:
    return f'ablations/vit-{name}_in1k.py'


def layers_of(projector: torch.nn.Module) -> list:
    """Widths of the linear layers and names of the others."""
    return [(layer.in_features, layer.out_features) if isinstance(
        layer, torch.nn.Linear) else type(layer).__name__
            for layer in projector.modules()
            if not isinstance(layer, torch.nn.Sequential)]


def heads_of(layers) -> int:
    heads, = {layer.attn.num_heads for layer in layers}
    return heads


def describe(model) -> dict:
    student, teacher = model.backbone, model.teacher.network
    loss = model.distill_loss
    return dict(
        student=(student.embed_dims, len(student.layers),
                 heads_of(student.layers),
                 sum(p.numel() for p in student.parameters())),
        losses=model.loss_names,
        teacher=(teacher.embed_dims, len(teacher.layers),
                 heads_of(teacher.layers)),
        teacher_images=model.teacher.img_size,
        projectors=[layers_of(p) for p in model.distill_neck.projectors],
        loss=(loss.criterion, loss.normalize, loss.loss_weight, loss.beta),
        decoder=len(model.neck.decoder_blocks))


def test_all_ablations_are_checked_here():
    assert sorted(map(path_of, {**CHANGES, **EPOCHS})) == ABLATIONS
    assert sorted(map(path_of, MODELS)) == ABLATIONS


@pytest.mark.parametrize('name', CHANGES)
def test_nothing_else_differs(name):
    cfg = load(path_of(name))
    base = load(f'dmae/vit-{name[0]}_dmae_in1k.py').to_dict()
    options = {f'model.{key}': value for key, value in CHANGES[name].items()}
    assert differences(cfg.to_dict(), base) == sorted(options)
    for option, value in options.items():
        section = cfg
        for key in option.split('.'):
            section = section[key]
        assert section == value, option


@pytest.mark.parametrize('name', MODELS)
def test_model(name):
    assert describe(build(path_of(name))) == {**BASE, **MODELS[name]}


@pytest.mark.parametrize('name', EPOCHS)
def test_schedule(name):
    """Two iterations an epoch, of all epochs, from what the Runner builds."""
    epochs = EPOCHS[name]
    cfg = load(path_of(name))
    base = load(f'dmae/vit-{name[0]}_dmae_in1k.py').to_dict()
    assert differences(cfg.to_dict(), base) == [
        'param_scheduler', 'train_cfg.max_epochs'
    ]
    assert cfg.train_cfg.max_epochs == epochs
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))],
                                lr=cfg.optim_wrapper.optimizer.lr)
    runner = SimpleNamespace(
        _train_loop=dict(max_epochs=epochs),
        train_loop=SimpleNamespace(max_epochs=epochs),
        train_dataloader=[None, None],
        optim_wrapper=OptimWrapper(optimizer))
    runner._build_param_scheduler = lambda *args: (
        Runner._build_param_scheduler(runner, *args))
    schedulers = Runner.build_param_scheduler(runner, cfg.param_scheduler)
    rates = []
    for _ in range(2 * epochs):
        rates.append(optimizer.param_groups[0]['lr'])
        for scheduler in schedulers:
            scheduler.step()
    assert rates[0] == pytest.approx(2.4e-7)
    assert rates[39] == rates[40] == pytest.approx(2.4e-3)
    middle = 40 + (2 * epochs - 40) // 2
    assert rates[middle] == pytest.approx(1.2e-3)
    assert rates[-1] == pytest.approx(
        1.2e-3 * (1 - math.cos(math.pi / (2 * epochs - 40))))
    assert rates == sorted(rates[:40]) + sorted(rates[40:], reverse=True)


def test_teacher_h_is_the_one_in_mmpretrains_model_zoo():
    index = Path(mmpretrain.__file__).parent / '.mim/configs/mae/metafile.yml'
    assert TO_H['teacher.checkpoint'].split('/')[-1] in index.read_text()
