"""Evaluate a classifier: mmpretrain's own test script, with dmae_mm in reach.

For fine-tuned and linearly probed students; features of a pre-trained one are
evaluated by tools/evaluate.py. `python tools/test.py -h` lists the options.
Before anything is built, the files are looked for that the config names.
"""
import argparse
import os.path as osp
import runpy
import sys

ROOT = osp.dirname(osp.dirname(osp.abspath(__file__)))
if osp.isdir(osp.join(ROOT, 'dmae_mm')):
    # A clone runs its own code, installed or not: see train.py.
    sys.path.insert(0, ROOT)

import dmae_mm  # noqa: E402, F401  First: it explains what is not installed.
import mmpretrain  # noqa: E402

from dmae_mm.host import ConfigOptions, read_config  # noqa: E402
from dmae_mm.launch import missing_files  # noqa: E402
from dmae_mm.weights.safe_load import (RefusedFile,  # noqa: E402
                                       never_unpickle)


def check_files() -> None:
    """End with a message if the config, the checkpoint or the data are not
    there. The other arguments are those of mmpretrain's script."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument('config', nargs='?')
    parser.add_argument('checkpoint', nargs='?')
    parser.add_argument(
        '--cfg-options', nargs='+', action=ConfigOptions, default={})
    args, others = parser.parse_known_args()
    if args.checkpoint is None or {'-h', '--help'} & {*others}:
        return  # mmpretrain's script explains itself
    problems = []
    if '://' not in args.checkpoint and not osp.isfile(args.checkpoint):
        problems.append(f'there is no checkpoint {args.checkpoint!r}')
    try:
        cfg = read_config(args.config, args.cfg_options)
        problems += missing_files(
            cfg, ('test_dataloader', ), checkpoints=False)
    except (FileNotFoundError, ValueError) as error:
        problems.append(str(error))
    if problems:
        parser.error('\n- '.join(['this cannot be evaluated:', *problems]))


if __name__ == '__main__':
    check_files()
    script = osp.join(
        osp.dirname(mmpretrain.__file__), '.mim', 'tools', 'test.py')
    if not osp.isfile(script):
        sys.exit(f'{script} is missing: this mmpretrain was installed from '
                 'its repository. Run tools/test.py of that repository '
                 'instead; the config imports dmae_mm by itself.')
    try:
        with never_unpickle():
            runpy.run_path(script, run_name='__main__')
    except RefusedFile as error:
        sys.exit(f'error: {error}')
