"""The table of variations in docs/recipes.md: a line builds what it says.

Models are built in their real sizes, without memory for their weights.
test_variation_runs.py trains each of them at toy size.
"""
import copy
import functools
import math
import re
import subprocess
from types import SimpleNamespace

import pytest
import torch
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner

from dmae_mm.launch import complete_config

from tests.toys.recipes import (ROWS, SIZES, STUDENT_VARIATIONS, VARIATIONS,
                                build, load, shape_of, visible_patches)


def layers_of(projector: torch.nn.Module) -> list:
    """Widths of the linear layers and names of the others."""
    return [(layer.in_features, layer.out_features) if isinstance(
        layer, torch.nn.Linear) else type(layer).__name__
            for layer in projector.modules()
            if not isinstance(layer, torch.nn.Sequential)]


@functools.lru_cache(maxsize=None)
def describe(name: str) -> dict:
    """What a recipe comes to, when it is built."""
    model = build(name)
    found = dict(
        epochs=load(name).train_cfg.max_epochs,
        student=shape_of(model.backbone))
    if type(model).__name__ == 'DMAE':
        neck = model.neck
        found.update(
            visible=visible_patches(model.backbone),
            decoder_in=neck.decoder_embed.in_features,
            decoder=(type(neck).__name__, len(neck.decoder_blocks),
                     getattr(neck, 'num_predicted', None)))
    else:
        found.update(head=tuple(model.head.fc.weight.shape))
    if getattr(model, 'teacher', None) is not None:
        network = model.teacher.network
        found.update(
            teacher=shape_of(getattr(network, 'backbone', network))[:3],
            teacher_images=model.teacher.img_size,
            losses=model.distillations.loss_names)
        part = model.distillations.by_name['']
        found.update(
            seen=part.num_seen,
            targets={type(target).__name__ for target in part.targets or ()})
    if getattr(model, 'distill_loss', None) is not None:
        loss, neck = model.distill_loss, getattr(model, 'distill_neck', None)
        found.update(
            loss=type(loss).__name__,
            projectors=neck and [layers_of(p) for p in neck.projectors],
            criterion=tuple(
                getattr(loss, name, None)
                for name in ('criterion', 'normalize', 'beta')),
            weight=loss.loss_weight)
    if getattr(model, 'logit_loss', None) is not None:
        found.update(logits=model.logit_loss.mode)
    return found


def student(size: str, wanted: dict) -> dict:
    shape = SIZES[size.lower()]
    return dict(
        student=shape,
        **({'decoder_in': shape[0]} if 'decoder_in' in wanted else
           {'head': (1000, shape[0])}))


def mlps(number: int):
    return lambda ours, its: [(ours, its), 'GELU', (its, its)] + (
        number - 1) * [(its, its), 'GELU', (its, its)]


# What the column "what changes" says -> what is then another in the
# description of the config that the line names.
CLAIMS = {
    r'ViT-(\w) learns': student,
    r'(\d+) patches visible': lambda n, _: dict(visible=int(n)),
    r'(\d+) epochs': lambda n, _: dict(epochs=int(n)),
    r'decoder of (\d+) blocks':
    lambda n, _: dict(decoder=('MAEPretrainDecoder', int(n), None)),
    r'decoder of (cross-attention)':
    lambda *_: dict(decoder=('CrossAttentionDecoder', 8, 49)),
    r'projector is an (MLP)': lambda *_: dict(projector=mlps(1)),
    r'projector is two (MLPs)': lambda *_: dict(projector=mlps(2)),
    r'no (projector)': lambda *_: dict(projector=lambda *_: ['Identity']),
    r'(L1|L2|smooth L1), normalised':
    lambda name, _: dict(criterion=(name.replace(' ', '_'), True, None)),
    r'(L1|L2), not normalised':
    lambda name, _: dict(criterion=(name, False, None)),
    r'1 - (cosine)': lambda name, _: dict(criterion=(name, True, None)),
    r'smooth L1 with beta (\d+) on layer-normalised targets':
    lambda beta, _: dict(criterion=('smooth_L1', 'layer', float(beta))),
    r'half cosine and half (smooth L1)': lambda *_: dict(
        criterion=(dict(cosine=0.5, smooth_L1=0.5), False, None)),
    r'targets of `(\w+)`': lambda name, _: dict(targets={name}),
    r'`(\w+RelationLoss)`': lambda name, _: dict(
        loss=name, criterion=(None, None, None), projectors=None),
    r'the teacher sees (\d+) patches': lambda n, _: dict(seen=int(n)),
    r'weighs ([\d.]+)': lambda weight, _: dict(weight=float(weight)),
    r'(hard) logits': lambda mode, _: dict(logits=mode),
    r'(`s\d+_t.*`)': lambda names, wanted: pairs(names, wanted),
}


def pairs(names: str, wanted: dict) -> dict:
    blocks = re.findall(r's\d+_t(\d+)', names)
    width, _, heads = wanted['teacher']
    return dict(
        losses=[f'loss_align_{name}' for name in re.findall(
            r's\d+_t\d+', names)],
        teacher=(width, 1 + max(map(int, blocks)), heads))


def claimed(name: str) -> dict:
    """The description that the page gives of a variation."""
    cells = VARIATIONS[name].cells
    wanted = dict(describe(cells['config'].strip('`')))
    said = cells['what changes']
    claims = {
        pattern: match[1]
        for pattern in CLAIMS for match in [re.search(pattern, said)] if match
    }
    assert claims, f'{name}: nothing here knows what {said!r} means'
    for pattern, value in claims.items():
        wanted.update(CLAIMS[pattern](value, wanted))
    if wanted.get('projectors'):
        template = wanted.pop('projector', lambda ours, its: [(ours, its)])
        wanted['projectors'] = len(wanted['losses']) * [
            template(wanted['student'][0], wanted['teacher'][0])
        ]
    return wanted


@pytest.mark.parametrize('name', VARIATIONS)
def test_it_is_what_the_page_says(name):
    assert describe(name) == claimed(name)


def test_tools_train_takes_the_options():
    """They pass all that tools/train.py does with --cfg-options, and bash
    splits them as they are split here."""
    variations = {**VARIATIONS, **STUDENT_VARIATIONS}
    for name, row in variations.items():
        options = row.parsed_options()
        base = load(row.cells['config'].strip('`'))
        assert complete_config(copy.deepcopy(base), options) == [], name
        for option, value in options.items():  # each changes something
            before = base
            for key in option.split('.'):
                if key.isdigit():
                    before = before[int(key)]
                else:
                    before = getattr(before, 'get', {}.get)(key)
            assert before != value, (name, option)
    words = subprocess.run(
        ['bash', '-c', "printf '%s\\n' " + ' '.join(
            row.options for row in variations.values())],
        capture_output=True, text=True, check=True).stdout.split()
    assert words == [
        f'{option}={value}'.replace(' ', '')
        for row in variations.values()
        for option, value in row.parsed_options().items()
    ]


@pytest.mark.parametrize('name', [
    name for name, row in VARIATIONS.items() if 'max_epochs' in row.options
])
def test_schedule(name):
    """Two iterations an epoch, of all epochs, from what the Runner builds."""
    cfg = load(name)
    epochs = cfg.train_cfg.max_epochs
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


def test_no_two_recipes_are_equal():
    assert len({repr(load(name).to_dict()) for name in ROWS}) == len(ROWS)
