"""One run in a work dir at a time, and what an earlier one has left there."""
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
from pathlib import Path
from typing import Dict, Iterator, List, Optional, Tuple

from filelock import FileLock, Timeout
from mmengine.config import Config
from mmengine.logging import print_log

from dmae_mm.config_text import flat_config
from dmae_mm.files import NO_SPACE, CannotWrite, explained
from dmae_mm.messages import first_few
from dmae_mm.weights.safe_load import load_without_executing

from .checkpointing import ADVICE, check_before_resuming, write_run_file

LOCK = '.run.lock'
HOLDER = '.run.json'
PREEMPTED = 'preempted.json'
LAST = 'last_checkpoint'
# What MMEngine and AtomicCheckpointHook call checkpoints of a run.
_CHECKPOINTS = ('epoch_*.pth', 'iter_*.pth', 'mid_epoch.pth', 'best_*.pth')
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP)
# What may differ where a run goes on: how it is started.
NOT_COMPARED = ('resume', 'load_from', 'launcher', 'model_wrapper_cfg',
                'overwrite')

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
            ``overwrite=True`` begins anew over an earlier run.
        main_process (bool): Whether this is the process of rank 0, the one
            that locks. Defaults to True.

    Raises:
        WorkDirInUse: If another run has it.
        ValueError: If the run would write over an earlier one, a preempted
            run had another config, or the checkpoint to resume from is
            damaged.
    """
    if main_process:
        lock_work_dir(cfg.work_dir)
    if not cfg.get('resume') and cfg.get('load_from') is None:
        cfg.resume = _was_preempted(cfg, main_process)
    if cfg.get('resume'):
        check_before_resuming(cfg.work_dir, cfg.get('load_from'))
    refuse_to_overwrite(cfg.work_dir, cfg)


def refuse_to_overwrite(work_dir: str, cfg: Config) -> None:
    """Refuse to begin anew over the checkpoints of an earlier run.

    Args:
        work_dir (str): Of the run.
        cfg (Config): Of the run. With ``overwrite=True`` nothing is refused,
            nor where it resumes from a checkpoint.

    Raises:
        ValueError: Says what is there, and how to go on or to begin anew.
    """
    last, found = last_checkpoint(work_dir), checkpoints_in(work_dir)
    resumes = bool(cfg.get('resume'))
    if resumes and (last or cfg.get('load_from')):
        return
    if cfg.get('overwrite') or not found:
        return
    if resumes:
        raise ValueError(
            f'{work_dir} holds {first_few(found)}, but no file {LAST!r} that '
            'names the one to go on from. Name it (--resume '
            f'{osp.join(work_dir, found[-1])}), or begin anew: --overwrite, '
            'or another --work-dir.')
    path = last or osp.join(work_dir, found[-1])
    resume = '--resume' if last else f'--resume {path}'
    raise ValueError(
        f'{work_dir} holds an earlier run, {_progress(path)}. This start '
        'would begin anew and write over its checkpoints. To go on with it, '
        f'add {resume}; to begin anew, add --overwrite, or choose another '
        '--work-dir. In Python: cfg.resume = True or cfg.overwrite = True. '
        'Nothing was changed.')


def checkpoints_in(work_dir: str) -> List[str]:
    """Names of the checkpoints of a run, the newest one last.

    Also one that ``last_checkpoint`` names, wherever it lies.
    """
    folder = Path(work_dir)
    paths = sorted((path for pattern in _CHECKPOINTS
                    for path in folder.glob(pattern)), key=osp.getmtime)
    last = last_checkpoint(work_dir)
    return [path.name for path in paths] or [last] * bool(last)


def last_checkpoint(work_dir: str) -> str:
    """What MMEngine would resume from: a path, or '' if nothing."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        return Path(work_dir, LAST).read_text().strip()
    return ''


def run_progress(path: str) -> Tuple[int, Optional[int], str]:
    """How far a run has come, from its last checkpoint.

    Args:
        path (str): The checkpoint. Nothing in it is executed.

    Returns:
        tuple[int, int | None, str]: What is done, the length of the whole
        run if its config says that, and what is counted: 'epoch' or 'iter'.

    Raises:
        ValueError: If it cannot be read, or does not tell.
    """
    try:
        meta = load_without_executing(path, path)['meta']
        epoch, iteration = int(meta['epoch']), int(meta['iter'])
    except (ValueError, KeyError, TypeError, OSError):
        raise ValueError(f'checkpoint {path} cannot be read') from None
    options = {}
    with contextlib.suppress(SyntaxError, TypeError):
        options = flat_config(meta.get('cfg', ''))
    for done, unit in ((epoch, 'epoch'), (iteration, 'iter')):
        length = options.get(f'train_cfg.max_{unit}s', '')
        if length.isdecimal():
            return done, int(length), unit
    return iteration, None, 'iter'


def _progress(path: str) -> str:
    """The same in words."""
    try:
        done, length, unit = run_progress(path)
    except ValueError as error:
        return f'whose {error}'
    if length is None:
        return f'at iteration {done} ({path})'
    state = 'finished' if done >= length else 'unfinished'
    return f'{state} at {unit} {done} of {length} ({path})'


def forget_earlier_run(work_dir: str) -> None:
    """A run begins anew: the next --resume must not go on with the old one.

    Its checkpoints stay until they are written over.
    """
    forget_preemption(work_dir)
    with contextlib.suppress(FileNotFoundError):
        os.remove(osp.join(work_dir, LAST))


def _was_preempted(cfg: Config, main_process: bool) -> bool:
    """Whether to go on with what was stopped, told on the console."""
    path = osp.join(cfg.work_dir, PREEMPTED)
    try:
        with open(path) as file:
            stopped = json.load(file)
    except FileNotFoundError:
        return False
    before, now = stopped['config'], _comparable(cfg)
    if cfg.get('overwrite') and not (before == now
                                     and stopped.get('overwrite')):
        return False  # asked for after the stop, not queued again with it
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
            'config changed; to begin anew, add --overwrite or choose another '
            '--work-dir. Changed:\n' + '\n'.join(changes[:20]))
    if main_process:
        print(f'Going on with the run that {stopped["signal"]} stopped at '
              f'iteration {stopped["iter"]} (to begin anew instead, choose '
              f'another --work-dir, or delete {path} and add --overwrite).')
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
    content = dict(
        signal=signal,
        iter=iteration,
        overwrite=bool(cfg.get('overwrite')),
        config=_comparable(cfg))
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
        for key, value in cfg.to_dict().items() if key not in NOT_COMPARED
    }).pretty_text
