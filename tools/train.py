"""Train a model: the command line of mmpretrain's own training script.

Configs of mmdet and mmseg are trained as well.

On a machine without an accelerator it also runs several processes, so that
distributed training can be tried anywhere.
"""
import argparse
import os
import os.path as osp
import sys
import tempfile

ROOT = osp.dirname(osp.dirname(osp.abspath(__file__)))
if osp.isdir(osp.join(ROOT, 'dmae_mm')):
    # A clone trains with its own code, installed or not. `mim` runs this file
    # from an installed wheel, where there is no such folder.
    sys.path.insert(0, ROOT)

import dmae_mm  # noqa: E402, F401  First: it explains what is not installed.
from mmengine.config import Config  # noqa: E402
from mmengine.device import get_device  # noqa: E402

from dmae_mm.engine.work_dir import sole_run  # noqa: E402
from dmae_mm.host import ConfigOptions, read_config  # noqa: E402
from dmae_mm.launch import (LAUNCHER_VARIABLES, NO_AMP,  # noqa: E402
                            adapt_to_platform, choose_port, complete_config,
                            preflight, set_epochs, start, static_problems,
                            together, unknown_arguments)
from dmae_mm.weights.safe_load import never_unpickle  # noqa: E402


def build_parser() -> argparse.ArgumentParser:
    """The command line. No help text may name mim's option for the number of
    GPUs: where mim finds it in the help, it passes it on."""
    parser = argparse.ArgumentParser(description='Train a model')
    parser.add_argument('config', help='path of the config')
    parser.add_argument(
        '--work-dir',
        help="folder for logs and checkpoints; defaults to the config's "
        'work_dir, or else to work_dirs/NAME_OF_CONFIG')
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        help='go on from this checkpoint, or, without a value, from the '
        'latest one in the work dir')
    parser.add_argument(
        '--overwrite',
        action='store_true',
        help='begin anew in a work dir that holds checkpoints of an earlier '
        'run, which is refused otherwise; a --resume that finds one to go on '
        'from wins')
    parser.add_argument(
        '--amp',
        action='store_true',
        help='train with automatic mixed precision')
    parser.add_argument(
        '--no-validate',
        action='store_true',
        help='do not evaluate during training')
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help='scale the learning rate by the images of an optimizer step '
        "over the config's auto_scale_lr.base_batch_size")
    parser.add_argument(
        '--epochs',
        type=int,
        metavar='N',
        help='train for so many epochs, with warm-up and decay of the '
        'learning rate in proportion')
    parser.add_argument(
        '--no-pin-memory',
        action='store_true',
        help='set pin_memory=False in all data loaders')
    parser.add_argument(
        '--no-persistent-workers',
        action='store_true',
        help='set persistent_workers=False in all data loaders')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=ConfigOptions,
        default={},
        metavar='KEY=VALUE',
        help='change the config, for example train_dataloader.batch_size=32; '
        'a list is given as key="[a,b]" or key=a,b')
    parser.add_argument(
        '--check',
        action='store_true',
        help='do not train: build everything, make a few steps, write and '
        'reload a checkpoint, tell memory and time, and report all that is '
        'wrong together; ends with 0 or 1 and leaves nothing behind')
    parser.add_argument(
        '--launcher',
        choices=['none', *LAUNCHER_VARIABLES],
        default='none',
        help='what started this process together with others')
    # Written with a hyphen by torch.distributed.launch since PyTorch 2.0.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)
    return parser


def check_args(parser: argparse.ArgumentParser,
               args: argparse.Namespace) -> None:
    """Refuse what cannot work, before the config is read."""
    if (args.resume not in (None, 'auto') and '://' not in args.resume
            and not osp.isfile(args.resume)):
        parser.error(f'there is no checkpoint {args.resume!r} to resume from')
    if args.amp and get_device() in NO_AMP:
        parser.error('--amp needs an accelerator, and PyTorch finds none' +
                     " but Apple's (MPS), which MMEngine does not use so" *
                     (get_device() == 'mps'))
    if args.check and args.launcher != 'none':
        parser.error('--check runs in one process: run `python tools/train.py '
                     f'{args.config} --check`, without tools/dist_train.sh '
                     'or srun')
    for name in LAUNCHER_VARIABLES.get(args.launcher, ()):
        if name not in os.environ:
            parser.error(
                f'--launcher {args.launcher} expects the environment variable '
                f'{name}, which the launcher sets for each process: start '
                'with tools/dist_train.sh or tools/slurm_train.sh')


def load_config(parser: argparse.ArgumentParser,
                args: argparse.Namespace) -> Config:
    """Read the config and write the command line's options into it."""
    try:
        cfg = read_config(args.config)
    except (FileNotFoundError, ValueError) as error:
        parser.error(str(error))
    if args.epochs is not None:
        if 'train_cfg.max_epochs' in args.cfg_options:
            parser.error('--epochs and train_cfg.max_epochs were both given: '
                         'give --epochs alone')
        try:
            set_epochs(cfg, args.epochs)
        except ValueError as error:
            parser.error(f'--epochs: {error}')
    cfg.launcher = args.launcher
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        name = osp.splitext(osp.basename(args.config))[0]
        cfg.work_dir = osp.join('work_dirs', name)
    if args.resume is not None:
        cfg.resume = True
        cfg.load_from = None if args.resume == 'auto' else args.resume
    if args.overwrite:
        cfg.overwrite = True
    if args.no_validate:
        cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    refuse(
        parser, args,
        complete_config(cfg, args.cfg_options, args.amp, args.auto_scale_lr,
                        args.no_pin_memory, args.no_persistent_workers))
    return cfg


def refuse(parser: argparse.ArgumentParser, args: argparse.Namespace,
           problems: list) -> None:
    """End with all that is wrong with a config, if anything is."""
    if not problems:
        return
    message = f'{args.config}: {together(problems)}'
    if args.check:
        parser.exit(1, f'{message}\n')
    parser.error(message)


@never_unpickle()
def main() -> None:
    parser = build_parser()
    args, unknown = parser.parse_known_args()
    if unknown:
        parser.error(unknown_arguments(unknown, args.config))
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    check_args(parser, args)
    choose_port(args.launcher)
    cfg = load_config(parser, args)
    if not args.check:
        refuse(parser, args, static_problems(cfg))
        try:  # now, not when the first checkpoint is written
            os.makedirs(cfg.work_dir, exist_ok=True)
            tempfile.TemporaryFile(dir=cfg.work_dir).close()
        except OSError as error:
            parser.error(f'cannot write to the work dir {cfg.work_dir!r}: '
                         f'{error}')
    adapt_to_platform(cfg)
    if args.check:
        sys.exit(0 if preflight(cfg) else 1)
    rank, *_ = LAUNCHER_VARIABLES.get(args.launcher, ('', ))
    with sole_run(cfg, main_process=os.environ.get(rank, '0') == '0'):
        start(cfg)


if __name__ == '__main__':
    main()
