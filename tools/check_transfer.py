"""Does a checkpoint arrive in the backbone of a config, every weight of it?

    python tools/check_transfer.py CONFIG CHECKPOINT

CONFIG is one of mmpretrain, mmdet or mmseg. Its model is built and loaded as
its runner would, with CHECKPOINT in the place of the file that it names:
model.backbone.init_cfg.checkpoint, model.pretrained, model.init_cfg.checkpoint
or, if it names none, load_from. Then each tensor of the backbone is compared
with the checkpoint, position embeddings after resampling them here. Ends with
0 if all arrived, and otherwise with 1, the likely cause and the cure. Data
sets are not needed. Nothing in CHECKPOINT is executed; a config is code.
"""
import argparse
import dataclasses
import os.path as osp
import re
import sys
from typing import Dict, List, Optional, Tuple

ROOT = osp.dirname(osp.dirname(osp.abspath(__file__)))
if osp.isdir(osp.join(ROOT, 'dmae_mm')):
    # A clone runs its own code, installed or not: see train.py.
    sys.path.insert(0, ROOT)

from dmae_mm.weights import TensorFile  # noqa: E402
from dmae_mm.weights.download import local_path  # noqa: E402
from dmae_mm.weights.host_model import (build_model,  # noqa: E402
                                            load_model, name_checkpoint,
                                            read_config)
from dmae_mm.weights.pretrained import (PretrainedOption,  # noqa: E402
                                            misfit, pretrained_options,
                                            read_for_host)
from dmae_mm.weights.transfer import (CHANGED, COMPUTED_ONLY,  # noqa: E402
                                          LEFT, LOADED, NEW, NOT_FINITE,
                                          RESIZED, Transfer, compare)
from mmengine.config import DictAction  # noqa: E402
from torch import nn  # noqa: E402

# What the backbone's and the unused tensors may take of the screen.
MAX_LINES, MAX_UNUSED = 20, 6


def parse_args(argv: Optional[List[str]]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', metavar='CONFIG', help='path of a config')
    parser.add_argument(
        'checkpoint', metavar='CHECKPOINT', help='path or http(s) URL')
    parser.add_argument(
        '--verbose',
        action='store_true',
        help='list every tensor instead of groups')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        default={},
        metavar='KEY=VALUE',
        help='change the config, for example model.backbone.img_size=384')
    try:
        return parser.parse_args(argv)
    except ValueError as error:  # DictAction on an argument without `=`
        parser.error(f'KEY=VALUE pairs are expected ({error})')


def grouped(shapes: Dict[str, Tuple], verbose: bool,
            max_lines: int = MAX_LINES) -> List[str]:
    """Lines of names and shapes, equal ones of several blocks in one."""
    groups: Dict[Tuple, List[str]] = {}
    for name, shape in shapes.items():
        block = re.match(r'(.*?\.)(\d+)(\..+)', name)
        if verbose or block is None:
            groups[(name, shape)] = []
        else:
            groups.setdefault((block[1], block[3], shape), []).append(block[2])
    lines = []
    for (name, *rest, shape), blocks in groups.items():
        if blocks:
            first, last = blocks[0], blocks[-1]
            consecutive = int(last) - int(first) == len(blocks) - 1
            indices = f'{first}-{last}' if consecutive else ','.join(blocks)
            name += (first if first == last else indices) + rest[0]
        lines.append(f'  {name:40s} {shape}')
    if not verbose and len(lines) > max_lines:
        lines[max_lines:] = ['  ... (all of them with --verbose)']
    return lines


def table(transfer: Transfer, file: TensorFile, verbose: bool) -> List[str]:
    """What became of the backbone's tensors and of the file's."""
    lines = []
    for status in (LOADED, RESIZED, LEFT, CHANGED, NOT_FINITE, NEW,
                   COMPUTED_ONLY):
        shapes = {
            row.name: row.shape if row.shape_in_file in (None, row.shape) else
            f'{row.shape}, in the checkpoint {row.shape_in_file}'
            for row in transfer.rows if row.status == status
        }
        if shapes or status in (LOADED, RESIZED, LEFT):
            lines += [f'{status}: {len(shapes)}', *grouped(shapes, verbose)]
    unused = {
        name: f'{shape}, {what}'
        for shapes, what in ((transfer.lost, 'which this backbone lacks'),
                             (transfer.dropped, 'not needed here'))
        for name, shape in shapes.items()
    }
    lines += [f'unused in the checkpoint: {len(unused)}',
              *grouped(unused, verbose, MAX_UNUSED)]
    beside: Dict[str, int] = {}
    for name in transfer.beside:
        part = name.split('.')[0] + '.*' * ('.' in name)
        beside[part] = beside.get(part, 0) + 1
    others = [f'{part} ({number})' for part, number in beside.items()]
    others += [name for name in file.ignored if name != 'meta']
    return lines + [f'not for a backbone: {", ".join(others) or "nothing"}']


def failure(transfer: Transfer, backbone: nn.Module, file: TensorFile,
            option: PretrainedOption, error: Optional[str]) -> str:
    """Why not all arrived, and what to do."""
    problems, cause = misfit(backbone, file, option)
    if problems:
        more = f' (and {len(problems) - 1} more)' * (len(problems) > 1)
        return (f'Under the prefix {option.prefix!r}, {problems[0]}{more}. '
                f'{cause}')
    if error:
        return error
    name = type(backbone).__name__
    changed = ', '.join(transfer.names(CHANGED, LEFT)[:5])
    if option.in_list:
        return (f'{name} overwrites {changed} if init_cfg is a list. Give '
                "model.backbone.init_cfg=dict(type='Pretrained', ...) alone.")
    return (f'{option.name} names a file that fits, but {name} does not have '
            f'its {changed}: its init_weights() overwrites or never loads '
            'them. Choose another type of backbone, or load_from=CHECKPOINT '
            'instead.')


def main(argv: Optional[List[str]] = None) -> None:
    args = parse_args(argv)
    try:
        cfg = read_config(args.config, args.cfg_options)
        file = read_for_host(args.checkpoint)
        path = local_path(args.checkpoint)
        name = name_checkpoint(cfg, path)
        model = build_model(cfg, args.config)
    except (ImportError, OSError, ValueError) as error:
        sys.exit(f'error: {error}')
    option = next((option for option in pretrained_options(model)
                   if option.checkpoint == path),
                  PretrainedOption(name, path, 'backbone.'))
    error = load_model(model, cfg)
    transfer = compare(model.backbone, file.tensors, option.prefix)
    option = dataclasses.replace(option, prefix=transfer.prefix)
    print(f'{args.config}: {cfg.default_scope}, '
          f'{type(model.backbone).__name__}')
    print(f'{file.source} (sha256 {file.sha256[:8]}) as {name}, '
          f'prefix {transfer.prefix!r}')
    print('\n'.join(table(transfer, file, args.verbose)))
    arrived = len(transfer.names(LOADED, RESIZED))
    needed = arrived + len(transfer.names(LEFT, CHANGED, NOT_FINITE))
    if error or not (arrived and transfer.arrived):
        sys.exit(f'error: {arrived} of {needed} backbone tensors arrived. ' +
                 failure(transfer, model.backbone, file, option, error))
    resized = len(transfer.names(RESIZED))
    print(f'All {arrived} backbone tensors arrived ({resized} resized).')


if __name__ == '__main__':
    main()
