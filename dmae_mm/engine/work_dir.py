"""One run in a work dir at a time, and what a preempted one leaves there."""
import contextlib
import difflib
import errno
import json
import logging
import os
import os.path as osp
import socket
import sys
import time
from typing import Dict, Iterator

from filelock import FileLock, Timeout
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.runner import find_latest_checkpoint

from dmae_mm.files import NO_SPACE, CannotWrite, explained

from .checkpointing import ADVICE, check_before_resuming, write_run_file

LOCK = '.run.lock'
HOLDER = '.run.json'
PREEMPTED = 'preempted.json'
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP)
# What may differ where a run goes on: how it is started.
_NOT_COMPARED = ('resume', 'load_from', 'launcher', 'model_wrapper_cfg')

# Locks of this process; the system releases them when it ends.
_held: Dict[str, FileLock] = {}


class WorkDirInUse(RuntimeError):
    """Another run writes to the work dir."""


def lock_work_dir(work_dir: str) -> None:
    """Keep other processes from training in a work dir, until this one ends.

    The lock is one of the operating system on an open file (``flock``): a
    killed process leaves none behind, and its workers do not inherit it.

    Args:
        work_dir (str): It exists. Locking it again changes nothing.

    Raises:
        WorkDirInUse: If another process has it.
    """
    work_dir = osp.realpath(work_dir)
    if work_dir in _held:
        return
    # One lock of the process, whichever thread asks.
    lock = FileLock(osp.join(work_dir, LOCK), thread_local=False)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise _in_use(work_dir) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        print_log(
            f'{work_dir} is on a file system without locks '
            f'({error.strerror}): nothing keeps a second run out of it.',
            logger='current',
            level=logging.WARNING)
        return
    _held[work_dir] = lock
    holder = dict(
        host=socket.gethostname(),
        pid=os.getpid(),
        since=time.strftime('%Y-%m-%d %H:%M:%S'))
    write_run_file(osp.join(work_dir, HOLDER), json.dumps(holder).encode())


def _in_use(work_dir: str) -> WorkDirInUse:
    who = 'another process is training there'
    with contextlib.suppress(OSError, ValueError):
        with open(osp.join(work_dir, HOLDER)) as file:
            holder = json.load(file)
        who = (f'process {holder["pid"]} on {holder["host"]} has been '
               f'training there since {holder["since"]}')
    return WorkDirInUse(
        f'The work dir {work_dir} is in use: {who}. Two runs would overwrite '
        "each other's checkpoints. Give this one another place (--work-dir), "
        'or stop the other. If that host is gone, a network file system '
        'releases its lock after a minute or two; where it never does, '
        f'delete {osp.join(work_dir, LOCK)}.')


@contextlib.contextmanager
def sole_run(cfg: Config, main_process: bool = True) -> Iterator[None]:
    """Around building and running a training on the command line.

    What a person can do something about ends it with a message and status 1,
    not with a traceback: see :func:`prepare_work_dir`, and a full disk.

    Args:
        cfg (Config): With a ``work_dir`` that exists. ``resume`` is changed.
        main_process (bool): Whether this is the process of rank 0. Defaults
            to True.

    Raises:
        SystemExit: Instead of these errors.
    """
    try:
        prepare_work_dir(cfg, main_process)
    except (WorkDirInUse, ValueError) as error:
        sys.exit(f'error: {error}')
    try:
        yield
    except OSError as error:
        if not isinstance(error, CannotWrite):
            if error.errno not in (*NO_SPACE, errno.EROFS):
                raise
            # A log, for example.
            error = explained(error, error.filename or cfg.work_dir, ADVICE)
        sys.exit(f'error: {error.strerror}')


def prepare_work_dir(cfg: Config, main_process: bool = True) -> None:
    """Before a training is built: is its work dir free, does it resume?

    A run that was preempted in this work dir goes on without being asked to.

    Args:
        cfg (Config): With a ``work_dir`` that exists. ``resume`` is changed.
        main_process (bool): Whether this is the process of rank 0, the one
            that locks. Defaults to True.

    Raises:
        WorkDirInUse: If another run has it.
        ValueError: If a preempted run had another config, or the checkpoint
            to resume from is damaged.
    """
    if main_process:
        lock_work_dir(cfg.work_dir)
    if not cfg.get('resume') and cfg.get('load_from') is None:
        cfg.resume = _was_preempted(cfg, main_process)
    if cfg.get('resume'):
        check_before_resuming(cfg.work_dir, cfg.get('load_from'))
    elif main_process and osp.isfile(
            osp.join(cfg.work_dir, 'last_checkpoint')):
        last = osp.basename(find_latest_checkpoint(cfg.work_dir))
        print(f'WARNING: {cfg.work_dir} holds {last} of an earlier run. This '
              'one begins anew and will write over its checkpoints. To go on '
              'with it, stop and add --resume; to keep it, choose another '
              '--work-dir.')


def _was_preempted(cfg: Config, main_process: bool) -> bool:
    """Whether to go on with what was stopped, told on the console."""
    path = osp.join(cfg.work_dir, PREEMPTED)
    try:
        with open(path) as file:
            stopped = json.load(file)
    except FileNotFoundError:
        return False
    before, now = stopped['config'], _comparable(cfg)
    if before != now:
        changes = [
            line.rstrip() for line in difflib.unified_diff(
                before.splitlines(), now.splitlines(), lineterm='', n=0)
            if line[:1] in '+-' and line[:3] not in ('+++', '---')
        ]
        raise ValueError(
            f'In {cfg.work_dir}, a run with another config was stopped by '
            f'{stopped["signal"]} at iteration {stopped["iter"]}. To go on '
            'with it, start it as before, or give --resume to do so with the '
            'config changed; to begin anew, choose another --work-dir, or '
            f'delete {path}. Changed:\n' + '\n'.join(changes[:20]))
    if main_process:
        print(f'Going on with the run that {stopped["signal"]} stopped at '
              f'iteration {stopped["iter"]} (to begin anew instead, choose '
              f'another work dir or delete {path}).')
    return True


def note_preemption(work_dir: str, cfg: Config, signal: str,
                    iteration: int) -> None:
    """Let the next start in a work dir go on by itself.

    Args:
        work_dir (str): Of the run.
        cfg (Config): Of the run.
        signal (str): What stopped it.
        iteration (int): Iterations done.
    """
    content = dict(signal=signal, iter=iteration, config=_comparable(cfg))
    write_run_file(
        osp.join(work_dir, PREEMPTED),
        json.dumps(content, indent=1).encode())


def forget_preemption(work_dir: str) -> None:
    """A run has come to its end: the next start is a new one."""
    with contextlib.suppress(FileNotFoundError):
        os.remove(osp.join(work_dir, PREEMPTED))


def _comparable(cfg: Config) -> str:
    """A config as text, without what may differ where a run goes on."""
    return Config({
        key: value
        for key, value in cfg.to_dict().items() if key not in _NOT_COMPARED
    }).pretty_text
