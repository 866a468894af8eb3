"""Train a model: the command line of mmpretrain's own training script.

Configs of mmdet and mmseg are trained as well.

On a machine without an accelerator it also runs several processes, so that
distributed training can be tried anywhere.
"""
import argparse
import difflib
import inspect
import logging
import os
import os.path as osp
import subprocess
import sys
import tempfile

ROOT = osp.dirname(osp.dirname(osp.abspath(__file__)))
if osp.isdir(osp.join(ROOT, 'dmae_mm')):
    # A clone trains with its own code, installed or not. `mim` runs this file
    # from an installed wheel, where there is no such folder.
    sys.path.insert(0, ROOT)

import dmae_mm  # noqa: E402, F401  First: it explains what is not installed.
import torch.distributed  # noqa: E402
from mmengine.config import Config, DictAction  # noqa: E402
from mmengine.device import get_device  # noqa: E402
from mmengine.registry import RUNNERS  # noqa: E402
from mmengine.runner import Runner  # noqa: E402

# What each launcher tells its processes: rank, local rank, number of them.
LAUNCHER_VARIABLES = dict(
    pytorch=('RANK', 'LOCAL_RANK', 'WORLD_SIZE'),
    slurm=('SLURM_PROCID', 'SLURM_LOCALID', 'SLURM_NTASKS'),
    mpi=('OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_LOCAL_RANK',
         'OMPI_COMM_WORLD_SIZE'))


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
        help='scale the learning rate by the actual batch size over the '
        "config's auto_scale_lr.base_batch_size")
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
        action=DictAction,
        default={},
        metavar='KEY=VALUE',
        help='change the config, for example train_dataloader.batch_size=32; '
        'a list is given as key="[a,b]" or key=a,b')
    parser.add_argument(
        '--launcher',
        choices=['none', *LAUNCHER_VARIABLES],
        default='none',
        help='what started this process together with others')
    # Written with a hyphen by torch.distributed.launch since PyTorch 2.0.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)
    return parser


def parse_args(parser: argparse.ArgumentParser) -> argparse.Namespace:
    try:
        args = parser.parse_args()
    except ValueError as error:  # DictAction on an argument without `=`
        parser.error(f'--cfg-options takes KEY=VALUE pairs ({error})')
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))

    if not osp.isfile(args.config):
        parser.error(f'there is no config {args.config!r}')
    if (args.resume not in (None, 'auto') and '://' not in args.resume
            and not osp.isfile(args.resume)):
        parser.error(f'there is no checkpoint {args.resume!r} to resume from')
    if args.amp and get_device() == 'cpu':
        parser.error('--amp needs an accelerator, and PyTorch finds none')
    for name in LAUNCHER_VARIABLES.get(args.launcher, ()):
        if name not in os.environ:
            parser.error(
                f'--launcher {args.launcher} expects the environment variable '
                f'{name}, which the launcher sets for each process: start '
                'with tools/dist_train.sh or tools/slurm_train.sh')
    return args


def load_config(parser: argparse.ArgumentParser,
                args: argparse.Namespace) -> Config:
    """Read the config and write the command line's options into it."""
    cfg = Config.fromfile(args.config)
    cfg.launcher = args.launcher
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        name = osp.splitext(osp.basename(args.config))[0]
        cfg.work_dir = osp.join('work_dirs', name)
    if args.resume is not None:
        cfg.resume = True
        cfg.load_from = None if args.resume == 'auto' else args.resume
    if args.no_validate:
        cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        if cfg.get(name) is not None:
            complete_dataloader(cfg[name], args)
            if cfg.get('default_scope', 'mmpretrain') == 'mmpretrain':
                # As mmpretrain's training script: self-supervised models are
                # fed wrongly without, and without an error. mmdet and mmseg
                # take lists of images.
                cfg[name].setdefault('collate_fn',
                                     dict(type='default_collate'))
    check_option_names(parser, cfg, args.cfg_options)
    counts = cfg.get('optim_wrapper', {}).get('accumulative_counts', 1)
    cfg.merge_from_dict(args.cfg_options)
    for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        if cfg.get(name) is not None and not cfg[name].get('num_workers'):
            cfg[name].persistent_workers = False  # there are none to keep

    missing = [
        key for key in ('model', 'train_dataloader', 'train_cfg',
                        'optim_wrapper') if cfg.get(key) is None
    ]
    if missing:
        parser.error(f'{args.config} is not a config to train with: it has no '
                     f'{", ".join(missing)}')
    if args.amp:
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')
    if args.auto_scale_lr:
        if 'auto_scale_lr' not in cfg:
            parser.error('--auto-scale-lr needs auto_scale_lr='
                         'dict(base_batch_size=...) in the config')
        cfg.auto_scale_lr.enable = True
        follow_accumulation(cfg, counts, args.cfg_options)
    check_data_root(parser, cfg.train_dataloader.get('dataset', {}))
    return cfg


def check_option_names(parser: argparse.ArgumentParser, cfg: Config,
                       options: dict) -> None:
    """Refuse options that nothing would read, such as mistyped ones."""
    known = {*cfg, *inspect.signature(Runner.__init__).parameters} | {
        'activation_checkpointing', 'compile', 'efficient_conv_bn_eval',
        'find_unused_parameters', 'model_wrapper_cfg', 'runner_type',
        'strategy', 'sync_bn'
    }
    for option in options:
        section = option.split('.')[0]
        if section not in known:
            similar = difflib.get_close_matches(section, known, 1)
            hint = f'; did you mean {similar[0]!r}?' if similar else (
                f'. The config has: {", ".join(sorted(cfg))}')
            parser.error(f'--cfg-options {option}: there is no section '
                         f'{section!r}{hint}')


def follow_accumulation(cfg: Config, counts: int, options: dict) -> None:
    """Keep the scaling of the learning rate right for other accumulation.

    MMEngine compares ``base_batch_size`` with the images of one iteration and
    leaves accumulation out, so the number holds for the config's own
    ``accumulative_counts`` only.
    """
    now = cfg.optim_wrapper.get('accumulative_counts', 1)
    if now != counts and 'auto_scale_lr.base_batch_size' not in options:
        cfg.auto_scale_lr.base_batch_size *= counts / now


def check_data_root(parser: argparse.ArgumentParser, dataset: dict) -> None:
    """Name the option if the folder of images is not there."""
    option = 'train_dataloader.dataset'
    while isinstance(dataset.get('dataset'), dict):  # repeated, for example
        dataset, option = dataset['dataset'], f'{option}.dataset'
    root = dataset.get('data_root')
    if root and '://' not in root and not osp.isdir(root):
        parser.error(f'there is no folder {root!r} to train on: set '
                     f'--cfg-options {option}.data_root=/path/to/images')


def shorten_console(logger: logging.Logger) -> None:
    """Leave one line per parameter of the optimizer to the log file."""
    for handler in logger.handlers:
        if type(handler) is logging.StreamHandler:
            handler.addFilter(lambda record: not record.getMessage().
                              startswith('paramwise_options'))


def complete_dataloader(dataloader: dict, args: argparse.Namespace) -> None:
    """Fill in what mmpretrain's training script fills in."""
    dataloader.setdefault('pin_memory', get_device() != 'cpu')
    dataloader.setdefault('persistent_workers',
                          dataloader.get('num_workers', 0) > 0)
    if args.no_pin_memory:
        dataloader['pin_memory'] = False
    if args.no_persistent_workers:
        dataloader['persistent_workers'] = False


def check_work_dir(parser: argparse.ArgumentParser, work_dir: str) -> None:
    """Find out now, not when the first checkpoint is written."""
    try:
        os.makedirs(work_dir, exist_ok=True)
        tempfile.TemporaryFile(dir=work_dir).close()
    except OSError as error:
        parser.error(f'cannot write to the work dir {work_dir!r}: {error}')


def adapt_to_cpu(cfg: Config) -> None:
    """Make a config for accelerators run without one.

    MMEngine's ``AmpOptimWrapper`` refuses to, and its launchers and its
    wrapping of the model assume a GPU for each process.
    """
    optim_wrapper = cfg.optim_wrapper
    if str(optim_wrapper.get('type')).endswith('AmpOptimWrapper'):
        optim_wrapper.type = 'OptimWrapper'
        for key in ('loss_scale', 'dtype', 'use_fsdp'):
            optim_wrapper.pop(key, None)
        if os.environ.get('RANK', '0') == '0':
            print('No accelerator: AmpOptimWrapper is replaced by '
                  'OptimWrapper, training is in full precision.')
    if cfg.launcher != 'none':
        init_gloo(cfg.launcher)
        if cfg.get('model_wrapper_cfg') is None:
            cfg.model_wrapper_cfg = dict(
                type='MMDistributedDataParallel',
                device_ids=None,
                broadcast_buffers=False,
                find_unused_parameters=cfg.get('find_unused_parameters',
                                               False))


def init_gloo(launcher: str) -> None:
    """Join the other processes, as MMEngine does for GPUs."""
    if launcher == 'slurm' and 'MASTER_ADDR' not in os.environ:
        hosts = subprocess.check_output(['scontrol', 'show', 'hostnames'],
                                        text=True)
        os.environ['MASTER_ADDR'] = hosts.split()[0]
    os.environ.setdefault('MASTER_ADDR', '127.0.0.1')
    os.environ.setdefault('MASTER_PORT', '29500')
    for name, source in zip(LAUNCHER_VARIABLES['pytorch'],
                            LAUNCHER_VARIABLES[launcher]):
        os.environ[name] = os.environ[source]
    torch.distributed.init_process_group('gloo')


def main() -> None:
    parser = build_parser()
    args = parse_args(parser)
    cfg = load_config(parser, args)
    check_work_dir(parser, cfg.work_dir)
    if get_device() == 'cpu':
        adapt_to_cpu(cfg)
    if 'runner_type' in cfg:
        runner = RUNNERS.build(cfg)
    else:
        runner = Runner.from_cfg(cfg)
    shorten_console(runner.logger)
    runner.train()


if __name__ == '__main__':
    main()
