"""What cannot work on the operating system at hand, said before a training.

Everything is developed and tested on Linux. What is known to be otherwise on
Windows and macOS is said here and nowhere else; on Linux, nothing is.
"""
import locale
import sys
from typing import Iterator, List

from mmengine.config import Config
from mmengine.device import get_device

from .cpu import NO_AMP, adapt_to_cpu
from .processes import is_first_process
from .sections import DATALOADERS, entries, hooks, shown

NAMES = dict(win32='Windows', darwin='macOS')
# Of `target` in a distillation: they compute in float64.
_IN_FLOAT64 = ('PHIStandardize', 'Standardize')


def adapt_to_platform(cfg: Config) -> None:
    """Put in what does the same here, and print what cannot work.

    On macOS, workers are started anew (spawn) where a config says or means
    ``mp_start_method='fork'``, as OpenMMLab's all do: Apple's libraries may
    crash in a process that was forked. A config for accelerators is made to
    run without one: see :func:`adapt_to_cpu`.

    Args:
        cfg (Config): Completed, and without :func:`platform_problems`.
    """
    notes = platform_notes(cfg)
    if sys.platform == 'darwin' and _start_method(cfg) == 'fork':
        cfg.merge_from_dict({'env_cfg.mp_cfg.mp_start_method': 'spawn'})
    if is_first_process(cfg.get('launcher', 'none')):
        for note in notes:
            print(note)
    if get_device() in NO_AMP:
        adapt_to_cpu(cfg)


def platform_notes(cfg: Config) -> List[str]:
    """What works less well, or not, on this operating system.

    Args:
        cfg (Config): Completed.

    Returns:
        list[str]: A line for each; none on Linux.
    """
    name = NAMES.get(sys.platform)
    if name is None:
        return []
    return [
        f'{name}: {note}' for note in (
            'dmae_mm is tested on Linux only. What is known to be otherwise '
            'is said here.', *_about_signals(cfg), *_about_workers(cfg),
            *_about_device())
    ]


def platform_problems(cfg: Config) -> List[str]:
    """What this operating system does not let a config do.

    Args:
        cfg (Config): Completed.

    Returns:
        list[str]: A sentence for each, with its option and what to do.
    """
    return [
        *_letters(cfg), *_several_processes(cfg), *_open_shards(cfg),
        *_targets(cfg)
    ]


def _about_signals(cfg: Config) -> Iterator[str]:
    if not any(str(hook.get('type')).endswith('PreemptionHook')
               for hook in hooks(cfg).values() if isinstance(hook, dict)):
        return
    if sys.platform == 'win32':
        yield ('only Ctrl-C saves a checkpoint before it ends a run. There '
               'is no SIGUSR1, and whatever else ends the process ends it at '
               'once: --resume then goes on from the last checkpoint. '
               'default_hooks.checkpoint.mid_epoch_interval=500 writes more.')
    elif _workers(cfg):
        yield ('to stop a run by SIGTERM or SIGUSR1, send it to the main '
               "process alone. SIGTERM to all of them ends the data loader's "
               'workers at once, and the run with an error.')


def _about_workers(cfg: Config) -> Iterator[str]:
    options = _workers(cfg)
    if options:
        yield (f'each worker ({", ".join(options)}) is a new Python that '
               'imports all packages: the first batch comes later, and each '
               'takes memory of its own. A script of your own that trains '
               "needs `if __name__ == '__main__':` around it, and what it "
               'adds to a pipeline must be importable: no lambda.')


def _about_device() -> Iterator[str]:
    if get_device() == 'mps':
        yield ("Apple's GPU (MPS) was never tried. Where PyTorch lacks an "
               'operator for it, PYTORCH_ENABLE_MPS_FALLBACK=1 in the '
               'environment computes that one on the CPU. Training is in '
               'full precision, and --check tells the memory of the process, '
               'not of the GPU.')


def _letters(cfg: Config) -> Iterator[str]:
    """MMEngine reads ``last_checkpoint`` in the encoding of the system."""
    encoding = locale.getpreferredencoding(False)
    try:
        cfg.get('work_dir', '').encode(encoding)
    except UnicodeEncodeError:
        yield (f'work_dir={cfg.work_dir!r} has letters that cannot be '
               f'written in {encoding}, the encoding of this system: set '
               'PYTHONUTF8=1 in the environment, or choose another --work-dir')


def _several_processes(cfg: Config) -> Iterator[str]:
    launcher = cfg.get('launcher', 'none')
    if launcher == 'none':
        return
    if get_device() == 'mps':
        yield (f'launcher={launcher!r}: several processes cannot train on '
               "Apple's GPU (MPS). Start one, without a launcher")
    backend = (cfg.get('env_cfg') or {}).get('dist_cfg') or {}
    if (sys.platform == 'win32' and get_device() != 'cpu'
            and backend.get('backend', 'nccl') == 'nccl'):
        yield (f'launcher={launcher!r}: processes on GPUs meet by NCCL, which '
               'Windows does not have. Start one, without a launcher, or try '
               'env_cfg.dist_cfg.backend=gloo, which is slower')


def _open_shards(cfg: Config) -> Iterator[str]:
    """Windows deletes no file that a process has open."""
    for name in DATALOADERS * (sys.platform == 'win32'):
        for option, value in entries(cfg.get(name), name):
            if option.endswith('.cache_size') and value is not None:
                yield (f'{option}={value!r}: on Windows no shard can be '
                       'deleted while a worker has it open. Leave it out, so '
                       'that all are kept')


def _targets(cfg: Config) -> Iterator[str]:
    if get_device() != 'mps':
        return
    for option, value in entries(cfg.model, 'model'):
        if option.endswith('.type') and str(value).endswith(_IN_FLOAT64):
            yield (f'{option}={shown(value)} computes in float64, which '
                   "Apple's GPU (MPS) does not have: leave the target out, "
                   'or train on another machine')


def _workers(cfg: Config) -> List[str]:
    """'train_dataloader.num_workers=8' of each that has some."""
    return [
        f'{name}.num_workers={cfg[name].num_workers}' for name in DATALOADERS
        if cfg.get(name) is not None and cfg[name].get('num_workers')
    ]


def _start_method(cfg: Config) -> str:
    """How MMEngine starts processes where it is free to choose."""
    settings = (cfg.get('env_cfg') or {}).get('mp_cfg') or {}
    return settings.get('mp_start_method', 'fork')
