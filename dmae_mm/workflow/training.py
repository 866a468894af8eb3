"""The training of a result: checked once, begun, gone on with."""
import contextlib
import gc
import os.path as osp
import signal
from typing import Callable, Iterator

import torch
from mmengine.config import Config

from dmae_mm.engine.hooks.preemption_hook import SIGNALS, Preempted
from dmae_mm.engine.work_dir import run_progress, sole_run
from dmae_mm.launch import adapt_to_platform, preflight, start

from .out_folder import OutFolder

# What a Runner calls the config that it writes into the work dir: ours, which
# has comments, is to stay.
STARTED = 'as_started.py'


class NotTrained(RuntimeError):
    """The training did not come to its end; the text says why."""


def train(cfg: Config, folder: OutFolder, say: Callable[[str], None]) -> str:
    """Train, or go on with it.

    Args:
        cfg (Config): Completed. Is changed.
        folder (OutFolder): After ``begin()``.
        say (Callable): Takes each line for a person.

    Returns:
        str: The last checkpoint.

    Raises:
        NotTrained: If the checks before the first start found something, or
            the training ended in an error.
        Preempted: If a signal stopped it.
    """
    adapt_to_platform(cfg)
    if torch.cuda.device_count() > 1:
        say(f'{torch.cuda.device_count()} GPUs are there, and this trains on '
            'one. To use all, stop here (Ctrl-C), train with\n'
            f'  bash tools/dist_train.sh {folder.config_file} '
            f'{torch.cuda.device_count()} --work-dir {folder.path}\n'
            'and give the same command again, which does all that follows.')
    checkpoint = folder.whole_checkpoint(say)
    if checkpoint is None and folder.checkpoint is not None:
        raise NotTrained('there is no other checkpoint to go on from. Delete '
                         f'{folder.path} to begin anew.')
    with _own_signals():
        if checkpoint is None:
            say('Checking, with a few steps ...')
            if not preflight(cfg, say):
                raise NotTrained('the training was not started: see the '
                                 'problems above.')
            # Teacher, student and optimizer of the check.
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        else:
            done, length, unit = run_progress(checkpoint)
            say(f'Going on at {unit} {done} of {length}, from {checkpoint}.')
        # It alone is gone on with: another may be damaged, or the folder
        # may have been moved.
        cfg.resume, cfg.load_from = checkpoint is not None, checkpoint
        # The exports behind the training write that file.
        cfg.custom_hooks = [hook for hook in cfg.get('custom_hooks', [])
                            if hook.get('type') != 'StudentFileHook']
        _start(
            Config(cfg.to_dict(), cfg.pretty_text,
                   osp.join(folder.path, STARTED)))
    checkpoint = folder.trained()
    if checkpoint is None:
        raise NotTrained(f'the training ended before its last epoch, and '
                         f'nothing says why: see the log in {folder.path}.')
    return checkpoint


def _start(cfg: Config) -> None:
    try:
        with sole_run(cfg):
            start(cfg, brief=True)
    except Preempted:
        raise
    except SystemExit as error:  # its code is the message
        raise NotTrained(str(error.code).removeprefix('error: ')) from None


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """Afterwards, signals do what they did: a run that ends early leaves the
    handlers of its ``PreemptionHook``."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # not the main thread
            for number, handler in before.items():
                signal.signal(number, handler)
