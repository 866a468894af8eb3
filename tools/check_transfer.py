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
import os.path as osp
import sys
from typing import List, Optional

ROOT = osp.dirname(osp.dirname(osp.abspath(__file__)))
if osp.isdir(osp.join(ROOT, 'dmae_mm')):
    # A clone runs its own code, installed or not: see train.py.
    sys.path.insert(0, ROOT)

from dmae_mm.host import ConfigOptions  # noqa: E402
from dmae_mm.weights.check_transfer import check_transfer  # noqa: E402
from dmae_mm.weights.safe_load import never_unpickle  # noqa: E402


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
        action=ConfigOptions,
        default={},
        metavar='KEY=VALUE',
        help='change the config, for example model.backbone.img_size=384')
    return parser.parse_args(argv)


@never_unpickle()
def main(argv: Optional[List[str]] = None) -> None:
    args = parse_args(argv)
    try:
        lines, reason = check_transfer(args.config, args.checkpoint,
                                       args.cfg_options, args.verbose)
    except (ImportError, OSError, ValueError) as error:
        sys.exit(f'error: {error}')
    print('\n'.join(lines))
    if reason:
        sys.exit(f'error: {reason}')


if __name__ == '__main__':
    main()
