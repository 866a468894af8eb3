import functools
import os
import signal
import threading
import time
from typing import Any, Callable, Optional, Sequence

import torch
import torch.distributed as dist
from mmengine.dist import get_world_size, is_main_process
from mmengine.hooks import Hook
from mmpretrain.registry import HOOKS

from dmae_mm.options import reject_unknown_options

from ..resuming import pending_gradients, why_not_inside_epoch
from ..work_dir import forget_preemption, note_preemption
from .atomic_checkpoint_hook import AtomicCheckpointHook

# Windows has no SIGUSR1, and lets no other process send SIGTERM.
SIGNALS = tuple(
    getattr(signal, name) for name in ('SIGTERM', 'SIGUSR1', 'SIGINT')
    if hasattr(signal, name))
EX_TEMPFAIL = 75  # sysexits.h: try again later
# Iterations from one agreement of several processes to the next.
AGREE_EVERY = 5
# A launcher passes on what its process group has already received.
SAME_SIGNAL = 3.0
CTRL_C = (b'\nCtrl-C: saving after this step. To stop at once, press it again '
          b'in 3 seconds.\n')


class Preempted(SystemExit):
    """The run was asked to stop, has saved, and can go on.

    Args:
        number (int): The signal that asked. The status is 75, and for Ctrl-C
            (SIGINT) the usual 130.
    """

    def __init__(self, number: int) -> None:
        super().__init__(128 + number if number ==
                         signal.SIGINT else EX_TEMPFAIL)


@HOOKS.register_module()
@reject_unknown_options
class PreemptionHook(Hook):
    """SIGTERM, SIGUSR1 and Ctrl-C save a checkpoint and end the run.

    Schedulers send the former two before they take a machine away; Windows
    has Ctrl-C alone. The status is 75, and the next start of the same command
    with ``tools/train.py`` goes on by itself. After Ctrl-C (SIGINT) it is
    130, and the next start goes on if ``--resume`` asks for it: a person may
    have stopped the run because something was wrong. A second signal, more
    than 3 seconds after the first, ends the process at once.

    The checkpoint is ``AtomicCheckpointHook``'s, after the optimizer's next
    step. A config that cannot resume inside an epoch saves nothing more, and
    the run will go on from its last checkpoint.

    Several processes stop after the same iteration, also if one alone got
    the signal: every 5 iterations, each puts a flag into an all-reduce
    between CPUs (gloo), and reads the result 5 iterations later. It has
    arrived by then, so that no device and, as a rule, no process waits.
    """

    priority = 'LOWEST'

    def __init__(self) -> None:
        self._signal: Optional[int] = None
        self._agreed: Optional[int] = None
        self._flag: Optional[torch.Tensor] = None
        self._agreement: Optional[dist.Work] = None
        self._before: dict = {}

    def before_train(self, runner) -> None:
        """Listen from now on."""
        self._group = (
            dist.new_group(backend='gloo') if get_world_size() > 1 else None)
        self._pid, self._main = os.getpid(), is_main_process()
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                handler = signal.signal(number, self._receive)
                # A run of this process that failed has left its own.
                owner = getattr(handler, '__self__', None)
                if isinstance(owner, PreemptionHook):
                    handler = owner._before[number]
                self._before[number] = handler
        # Schedulers and terminals also signal the workers, which are to go on:
        # they end with the process that they work for.
        for loop in (runner.train_loop, runner.val_loop):
            if loop is not None and loop.dataloader.num_workers:
                loop.dataloader.worker_init_fn = functools.partial(
                    outlive_signals, then=loop.dataloader.worker_init_fn)

    def _receive(self, number: int, frame: Any) -> None:
        if os.getpid() != self._pid:
            return  # a child process that is none of our workers
        now = time.monotonic()
        if self._signal is None:
            self._signal, self._since = number, now
            if number == signal.SIGINT and self._main:
                os.write(2, CTRL_C)  # print() may be at work just now
        elif now - self._since > SAME_SIGNAL:
            signal.signal(number, signal.SIG_DFL)
            os.kill(self._pid, number)

    def after_train_iter(self,
                         runner,
                         batch_idx: int,
                         data_batch: Optional[Sequence[dict]] = None,
                         outputs: Optional[dict] = None) -> None:
        """Save and stop if a signal has come.

        Raises:
            Preempted: If so.
        """
        if self._group is None:
            self._agreed = self._signal
        elif runner.iter % AGREE_EVERY == 0:
            self._agree()
        if not self._agreed or runner.iter + 1 == runner.max_iters:
            return
        reason = why_not_inside_epoch(runner)
        if reason is None and pending_gradients(runner):
            return
        self._save_and_stop(runner, reason)

    def _agree(self) -> None:
        """Read the last agreement and begin the next."""
        if self._agreement is not None:
            self._agreement.wait()
            self._agreed = self._flag.item()  # from the CPU
        self._flag = torch.tensor(self._signal or 0)
        self._agreement = dist.all_reduce(
            self._flag, dist.ReduceOp.MAX, group=self._group, async_op=True)

    def _save_and_stop(self, runner, reason: Optional[str]) -> None:
        name = signal.Signals(self._agreed).name
        hook = next((hook for hook in runner.hooks
                     if isinstance(hook, AtomicCheckpointHook)), None)
        if hook is None:
            reason = ('default_hooks.checkpoint.type is not '
                      'AtomicCheckpointHook')
        if reason is None:
            hook.save_mid_epoch(runner)
            what = 'All is saved.'
        else:
            what = ('It will go on from the last checkpoint, because it '
                    f'cannot resume inside an epoch: {reason}.')
        if self._main:
            if self._agreed == signal.SIGINT:
                advice = 'Start it with --resume to go on.'
            else:
                note_preemption(runner.work_dir, runner.cfg, name,
                                runner.iter + 1)
                advice = ('The next start with the same work dir goes on by '
                          'itself.')
            runner.logger.info(f'Stopped by {name} after iteration '
                               f'{runner.iter + 1}. {what} {advice}')
        if self._group is not None:
            self._agreement.wait()
            # A launcher ends all processes with the first: rank 0 has saved.
            dist.barrier(self._group)
        self._end()
        raise Preempted(self._agreed)

    def after_train(self, runner) -> None:
        """The run is done."""
        if self._agreement is not None:
            self._agreement.wait()
        self._end()
        if self._main:
            forget_preemption(runner.work_dir)

    def _end(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


def outlive_signals(worker_id: int,
                    then: Optional[Callable[[int], None]] = None) -> None:
    """Begin a data loader's worker that no signal to the whole run ends.

    Its own process also ends it by SIGTERM, if it does not go by itself:
    PyTorch tells one from the other by the sender, and so does this. Where
    the system does not name the sender, as on macOS and Windows, SIGTERM ends
    the worker whoever sends it.

    Args:
        worker_id (int): Its number.
        then (callable, optional): What begins it otherwise. Defaults to None.
    """
    for number in SIGNALS:
        if number != signal.SIGTERM:
            signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, 'sigwaitinfo'):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_with_parent, daemon=True).start()
    if then is not None:
        then(worker_id)


def _end_with_parent() -> None:
    parent = os.getppid()
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
