"""Configs for accelerators on a machine without one."""
import os
import subprocess

import torch.distributed
from mmengine.config import Config
from mmengine.device import get_device

from .processes import LAUNCHER_VARIABLES, is_first_process

# Devices on which MMEngine's AmpOptimWrapper refuses to work.
NO_AMP = ('cpu', 'mps')


def adapt_to_cpu(cfg: Config) -> None:
    """Make a config for accelerators run without one, or on Apple's.

    MMEngine's ``AmpOptimWrapper`` refuses to, and its launchers and its
    wrapping of the model assume a GPU for each process. Of several processes
    on Apple's, ``platform_problems`` has refused the config.
    """
    optim_wrapper = cfg.optim_wrapper
    if str(optim_wrapper.get('type')).endswith('AmpOptimWrapper'):
        optim_wrapper.type = 'OptimWrapper'
        for key in ('loss_scale', 'dtype', 'use_fsdp'):
            optim_wrapper.pop(key, None)
        if is_first_process(cfg.launcher):
            missing = ('No accelerator' if get_device() == 'cpu' else
                       "Apple's GPU (MPS)")
            print(f'{missing}: AmpOptimWrapper is replaced by OptimWrapper, '
                  'training is in full precision.')
    if cfg.launcher != 'none':
        _init_gloo(cfg.launcher)
        if cfg.get('model_wrapper_cfg') is None:
            cfg.model_wrapper_cfg = dict(
                type='MMDistributedDataParallel',
                device_ids=None,
                broadcast_buffers=False,
                find_unused_parameters=cfg.get('find_unused_parameters',
                                               False))


def _init_gloo(launcher: str) -> None:
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
