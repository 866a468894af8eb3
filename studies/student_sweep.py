"""Which backbones FeatureDistiller trains: docs/student-sweep.md.

    python -m studies.student_sweep [--all] [--only NAME ...] [--out PAGE]

Each backbone of mmpretrain's registry, and one of each family of timm (with
--all: each model of timm), makes a training step at toy size: two images of
64 px or, where it takes no such images, of its own size, and a random
teacher of 4 x 4 patches at its last block. A backbone passes if the loss is
finite and every parameter that is trained gets a finite gradient.
"""
import argparse
import inspect
import re
import resource
import signal
import textwrap
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Dict, Iterator, List, Optional, Tuple

import timm
import torch
from mmengine.logging import MMLogger
from mmengine.model import BaseModule
from mmpretrain.models.backbones.base_backbone import BaseBackbone
from mmpretrain.registry import MODELS

from dmae_mm.messages import one_line
from dmae_mm.models import FeatureDistiller
from dmae_mm.models.student_input import input_channels
from dmae_mm.options import legal_options

PAGE = Path(__file__).parents[1] / 'docs' / 'student-sweep.md'
PAGE_TEXT = """# Students of FeatureDistiller, each tried

Does `FeatureDistiller` train your backbone? Each one made a training step at
toy size. It trains if the loss is finite, and a finite gradient reaches every
parameter that is trained.

## One command

```bash
python -m studies.student_sweep{options}
```

It writes this page. timm was {timm}.

## What came out

{counts}

## mmpretrain

These train, with images

{of_mmpretrain}

## timm, as TIMMBackbone

{which} These train, with images

{of_timm}

## Options

| option | meaning |
| --- | --- |
| `--only NAME ...` | try these alone; print, and write nothing |
| `--all` | every model of timm, not one of each family |
| `--out PAGE` | another file |

## Limits

- A step says that a training runs, not what the student learns.
- Images have 64 px; a backbone that takes no such images got its own size.
- `SparseResNet` and `SparseConvNeXt` are students of [DMAE](students.md).
"""
SIDE = 64  # pixels
SECONDS, MEMORY = 100, 10 * 2**30  # at most, for a backbone
LARGEST_SIDE = 512  # larger ones take gigabytes
TEACHER = dict(
    type='MMPretrainTeacher',
    backbone=dict(
        type='VisionTransformer',
        arch=dict(
            embed_dims=32, num_layers=2, num_heads=2,
            feedforward_channels=64),
        img_size=32,
        patch_size=8),
    allow_random=True)
# What the name of a model of timm says about its size, small ones first.
SIZES = ('test', 'atto', 'femto', 'pico', 'nano', 'xxtiny', 'xxs', 'xtiny',
         'xs', 'tiny', 'mini', '050', 'small', '_s', 's0', 'b0', 'a0', 't')
# Options that their classes need and have no list of; smaller ones.
OPTIONS = dict(
    MoCoV3ViT=dict(patch_size=16),
    MobileNetV2=dict(widen_factor=.35),
    T2T_ViT=dict(
        t2t_cfg=dict(token_dims=64, use_performer=False),
        num_layers=2,
        layer_cfgs=dict(num_heads=6, feedforward_channels=3 * 384)),
    XCiT=dict(embed_dims=64, depth=2, num_heads=2))


@dataclass
class Outcome:
    """What became of a backbone.

    Attributes:
        name (str): Of its class, or of the model of timm.
        options (str): With which options.
        result (str): 'trains', 'no map' or 'fails'.
        details (str): Stages and widths, or why not.
    """
    name: str
    options: str
    result: str
    details: str


def backbones() -> Iterator[Dict]:
    """A small config of each backbone of mmpretrain.

    Yields:
        dict: For 64 px, where the size is an option.
    """
    for name, cls in sorted(MODELS.module_dict.items()):
        if not (isinstance(cls, type) and issubclass(cls, BaseModule)
                and cls.__module__.startswith('mmpretrain.')) or not (
                    '.backbones.' in cls.__module__ or issubclass(
                        cls, BaseBackbone)) or name == 'TIMMBackbone':
            continue
        legal = legal_options(cls, named=True)
        cfg = dict(type=name)
        zoo = getattr(cls, 'arch_zoo', None) or getattr(
            cls, 'arch_settings', None)
        if isinstance(zoo, dict):
            key = 'depth' if 'depth' in legal else 'arch'
            if key in legal:
                cfg[key] = next(iter(zoo))
        if 'base_channels' in legal and 'depth' in cfg:
            cfg['depth'] = min(zoo)
        for option, value in (('img_size', SIDE), ('pad_small_map', True)):
            if option in legal:
                cfg[option] = value
        yield dict(cfg, **OPTIONS.get(name, {}))


def timm_models(every: bool) -> Iterator[Dict]:
    """Models of timm: one of each family, or all.

    Args:
        every (bool): All.

    Yields:
        dict: Its config.
    """
    for module in timm.list_modules():
        names = timm.list_models(module=module)
        if names and not every:
            names = [min(names, key=_size)]
        for name in names:
            yield dict(type='TIMMBackbone', model_name=name)


def _size(name: str) -> Tuple:
    """Sorts names of models by what they say about the size."""
    parts = re.split('_', name)
    rank = min((place for place, word in enumerate(SIZES)
                if word in parts or word in name), default=len(SIZES))
    return rank, len(name), name


def step(backbone: Dict) -> Outcome:
    """Make a step, with images of 64 px or else of the backbone's size.

    Args:
        backbone (dict): Its config.

    Returns:
        Outcome: The best of the tries.
    """
    name = backbone.get('model_name', backbone['type'])
    tries = [(backbone, SIDE)]
    if backbone['type'] == 'TIMMBackbone':
        own = (timm.get_pretrained_cfg(name, allow_unregistered=True)
               or timm.models.PretrainedCfg())
        tries.append((dict(backbone, img_size=SIDE), SIDE))
        if own.input_size[-1] <= LARGEST_SIDE:
            tries.append((backbone, own.input_size[-1]))
    else:
        without = {key: value for key, value in backbone.items()
                   if key != 'img_size'}
        default = legal_default(without['type'], 'img_size') or 224
        tries.append((without, default))
    reason: Optional[str] = None
    result = 'fails'
    for cfg, side in tries:
        shown = ', '.join(f'{key}={value!r}' for key, value in cfg.items()
                          if key not in ('type', 'model_name'))
        try:
            model = _train(cfg, side)
        except Exception as error:  # whatever a backbone raises
            if reason is None or result == 'fails':
                reason = one_line(error)
                result = ('no map' if 'is no map' in str(error) else 'fails')
            continue
        maps = model.maps
        widths = ', '.join(map(str, maps.widths.values()))
        frozen = (f', {len(maps.unused)} parameters without part in it'
                  if maps.unused else '')
        return Outcome(
            name, f'{shown}{", " * bool(shown)}{side} px', 'trains',
            f'{maps.num_stages} stages, the last {widths} wide{frozen}')
    return Outcome(name, shown, result, reason)


def legal_default(kind: str, option: str) -> Optional[int]:
    """The first number of the default of an option of a class."""
    for base in MODELS.get(kind).__mro__:
        parameter = inspect.signature(base.__init__).parameters.get(option)
        if parameter is not None:
            value = parameter.default
            return value[0] if isinstance(value, tuple) else value
    return None


def _step_within_limits(backbone: Dict) -> Outcome:
    """In a process of its own, which takes its memory with it."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(SECONDS)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    return step(backbone)


def _too_long(*_) -> None:
    raise TimeoutError(f'not done in {SECONDS} seconds')


def _train(cfg: Dict, side: int) -> FeatureDistiller:
    torch.manual_seed(0)
    model = MODELS.build(
        dict(
            type='FeatureDistiller', backbone=dict(cfg),
            data_preprocessor=dict(mean=[127.5], std=[127.5]),
            teacher=TEACHER))
    model.train()
    losses = model.loss(
        torch.randn(2, input_channels(model.backbone), side, side), [])
    total = sum(losses.values())
    total.backward()
    bad = [
        name for name, parameter in model.named_parameters()
        if parameter.requires_grad and (
            parameter.grad is None or not parameter.grad.isfinite().all())
    ]
    if not total.isfinite() or bad:
        raise ValueError(f'loss {total.item()}, no finite gradient in {bad}')
    return model


def rows(*rows: Tuple[str, ...]) -> str:
    """A Markdown table; its first row are the headers."""
    header, *others = (
        '| ' + ' | '.join(cell.replace('|', '/') for cell in row) + ' |'
        for row in rows)
    return '\n'.join([header, '| --- ' * len(rows[0]) + '|', *others])


def counts(name: str, outcomes: List[Outcome]) -> Tuple[str, ...]:
    """A row of the page's first table."""
    trains, fails, no_map = (
        sum(each.result == result for each in outcomes)
        for result in ('trains', 'fails', 'no map'))
    share = 100 * trains / max(trains + fails, 1)
    return (name, f'{trains} of {trains + fails} ({share:.0f} %)', str(fails),
            str(no_map))


def tables(outcomes: List[Outcome]) -> str:
    """What trains, by the size of its images, and why others do not."""
    by_size: Dict[str, List[str]] = {}
    for each in outcomes:
        if each.result == 'trains':
            size = each.options.split(', ')[-1]
            by_size.setdefault(size, []).append(f'`{each.name}`')
    others = [(f'`{each.name}`', each.result, short(each.details))
              for each in outcomes if each.result != 'trains']
    text = '\n'.join(
        textwrap.fill(f'- of {size}: {", ".join(names)}', 80,
                      subsequent_indent='  ', break_on_hyphens=False)
        for size, names in sorted(by_size.items(),
                                  key=lambda item: -len(item[1])))
    if others:
        text += '\n\n' + rows(('backbone', 'result', 'why'), *others)
    return text


def short(reason: str) -> str:
    """An error without what all have in common."""
    reason = reason.removeprefix('ValueError: ').removeprefix('backbone: ')
    return reason.partition(' None of its options')[0]


def page(of_mmpretrain: List[Outcome], of_timm: List[Outcome],
         every: bool) -> str:
    """The whole page."""
    return PAGE_TEXT.format(
        options=' --all' * every,
        timm=timm.__version__,
        counts=rows(
            ('backbones', 'train', 'fail', 'no map: refused'),
            counts('mmpretrain', of_mmpretrain), counts('timm', of_timm)),
        of_mmpretrain=tables(of_mmpretrain),
        which='All models.' if every else 'One small model of each family.',
        of_timm=tables(of_timm))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--all', action='store_true',
                        help='every model of timm, not one of each family')
    parser.add_argument('--only', nargs='+', metavar='NAME',
                        help='these alone; prints and writes nothing')
    parser.add_argument('--out', default=str(PAGE), help='the page')
    args = parser.parse_args()
    MMLogger.get_current_instance().setLevel('ERROR')
    sections: List[List[Outcome]] = []
    for configs in (backbones(), timm_models(args.all)):
        sections.append([])
        wanted = [cfg for cfg in configs if not args.only or cfg.get(
            'model_name', cfg['type']) in args.only]
        with get_context('fork').Pool(1, maxtasksperchild=1) as pool:
            for outcome in pool.imap(_step_within_limits, wanted):
                print(outcome.name, outcome.result, outcome.details,
                      flush=True)
                sections[-1].append(outcome)
    if not args.only:
        Path(args.out).write_text(page(*sections, args.all))


if __name__ == '__main__':
    main()
