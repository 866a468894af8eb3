import os.path as osp
from collections import deque
from typing import Any, Deque, List, Optional

import torch
import torch.distributed as dist
import torch.nn as nn
from mmengine.dist import broadcast_object_list, get_rank, get_world_size
from mmengine.hooks import CheckpointHook, LoggerHook, RuntimeInfoHook
from mmengine.optim import OptimWrapper
from mmpretrain.registry import HOOKS
from torch.distributed.tensor import DTensor

from dmae_mm.engine.step_report import describe_stop
from dmae_mm.engine.watched_step import Step, StepStartHook, copy_to_host
from dmae_mm.host import unwrapped_model
from dmae_mm.options import reject_unknown_options


class NonFiniteLossError(FloatingPointError):
    """A loss term became NaN or infinite."""


@HOOKS.register_module()
@reject_unknown_options
class FiniteLossHook(RuntimeInfoHook):
    """Stops a run whose loss becomes NaN or infinite, and says where.

    It takes the place of MMEngine's ``RuntimeInfoHook``, which it is, too::

        default_hooks = dict(runtime_info=dict(type='FiniteLossHook'))

    **What happens.** An optimizer step to which a non-finite loss contributed,
    in whichever process and accumulated batch, changes neither the weights
    nor the optimizer's state, in any process. All processes then stop in the
    same iteration with the same error: step, loss terms, learning rate, names
    of the images, and a file with which ``tools/replay_step.py`` repeats the
    step. It lies in the work dir, as ``nonfinite_iter_N_rank_R.pth``, and
    holds the weights and one batch. Gradients that the ``GradScaler`` of
    mixed precision finds to be infinite are no error: the loss is what is
    looked at.

    **What it costs.** MMEngine's hook reads each loss in each iteration, and
    the host waits for the device each time. Here all are copied at once,
    without waiting, and are read in the next iteration, or at once where they
    are logged or a checkpoint is due; what is logged is the same. The decision
    to leave out an optimizer step stays on the device with optimizers that
    can do so (``fused=True``); for others, the host waits once per optimizer
    step. Several processes agree on one number per optimizer step.

    Args:
        max_skips (int): How many such optimizer steps are left out, with a
            warning, before the next one stops the run. They are counted over
            the whole run, also if it is resumed. The learning rate's schedule
            and an ``EMAHook`` go on as if the step had been made, and batch
            norms have seen the batch. Defaults to 0.

    Raises:
        ValueError: If ``max_skips`` is not an int of at least 0, or, before
            the training starts, if there is more than one optimizer.
        NonFiniteLossError: During the training.
    """

    def __init__(self, max_skips: int = 0) -> None:
        if type(max_skips) is not int or max_skips < 0:
            raise ValueError(f'FiniteLossHook: max_skips={max_skips!r} is not '
                             'an int of at least 0.')
        self.max_skips = max_skips

    def before_train(self, runner) -> None:
        super().before_train(runner)
        optim_wrapper = runner.optim_wrapper
        if not isinstance(optim_wrapper, OptimWrapper):
            raise ValueError(
                'FiniteLossHook needs a single optimizer, but optim_wrapper '
                f'is a {type(optim_wrapper).__name__}. Set default_hooks.'
                'runtime_info.type=RuntimeInfoHook to train without it.')
        device = next(runner.model.parameters()).device
        self.skips = runner.message_hub.get_info('skipped_steps', 0)
        self._skips = torch.tensor(float(self.skips), device=device)
        self._bad = torch.zeros((), device=device)  # in this window
        self._verdict = torch.zeros((), device=device)
        self._pending: Deque[Step] = deque()
        self._suspects: List[Step] = []
        self._optim_wrapper = optim_wrapper
        unwrapped_model(runner).register_forward_hook(
            self._judge_losses, with_kwargs=True)
        optim_wrapper.optimizer.register_step_pre_hook(self._guard_step)
        optim_wrapper.optimizer.register_step_post_hook(self._end_guard)
        self._at_start = StepStartHook()
        runner.register_hook(self._at_start, priority='LOWEST')

    @torch.compiler.disable
    @torch.no_grad()
    def _judge_losses(self, model: nn.Module, args: tuple, kwargs: dict,
                      losses: Any) -> None:
        """Before the gradients are computed: is there a non-finite loss?

        At the end of a window of accumulated batches, the verdict is 0 if
        there was none in any process, and else the number of processes minus
        the lowest rank that had one.
        """
        if kwargs.get('mode') != 'loss':
            return
        total, _ = model.parse_losses(losses)
        self._bad = torch.maximum(self._bad,
                                  (~torch.isfinite(total.detach())).float())
        if not self._optim_wrapper.should_sync():
            return
        self._verdict = self._bad * (get_world_size() - get_rank())
        if get_world_size() > 1:
            dist.all_reduce(self._verdict, dist.ReduceOp.MAX)
        self._bad = torch.zeros_like(self._bad)
        self._skips = self._skips + (self._verdict > 0)

    @torch.compiler.disable
    def _guard_step(self, optimizer: torch.optim.Optimizer, args: tuple,
                    kwargs: dict) -> None:
        """Let the optimizer leave out this step if it must.

        Beyond ``max_skips``, it leaves out all later ones as well: the
        weights stay as they were until the host has noticed.
        """
        closed = ((self._verdict > 0) |
                  (self._skips > self.max_skips)).float()
        if _decides_on_device(optimizer):
            found = getattr(optimizer, 'found_inf', None)
            self._is_ours = found is None
            optimizer.found_inf = (
                closed if found is None else torch.maximum(found, closed))
        elif closed.item():
            optimizer.zero_grad()  # without gradients, nothing is changed

    @torch.compiler.disable
    def _end_guard(self, optimizer: torch.optim.Optimizer, args: tuple,
                   kwargs: dict) -> None:
        if _decides_on_device(optimizer) and self._is_ours:
            del optimizer.found_inf

    def after_train_iter(self,
                         runner,
                         batch_idx: int,
                         data_batch: Any = None,
                         outputs: Optional[dict] = None) -> None:
        """Log the losses, those of this iteration or of the one before.

        Raises:
            NonFiniteLossError: If one of them is not finite.
        """
        if outputs is None:
            return
        step = self._step(runner, batch_idx, data_batch, outputs)
        # The first is read at once so that keys are logged in stock's order.
        waits = (
            step.copied is not None and self._at_start.count > 1
            and not self._is_needed(runner, batch_idx))
        self._pending.append(step)
        while len(self._pending) > waits:
            self._finish(runner, self._pending.popleft())

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        """Complete the log of a checkpoint written at an unusual moment.

        Its weights are good: no bad step reaches them. Several processes stop
        together, after this iteration or the next; a single one at once.
        """
        pending = getattr(self, '_pending', ())
        for step in list(pending):
            if get_world_size() == 1:
                self._finish(runner, pending.popleft())
            elif step.names:
                step.read()
                self._log(runner, step)
            checkpoint['message_hub'] = runner.message_hub.state_dict()

    def _step(self, runner, batch_idx: int, batch: Any,
              outputs: dict) -> Step:
        values = [
            value.detach().reshape(()) if isinstance(value, torch.Tensor) else
            torch.tensor(float(value)) for value in outputs.values()
        ]
        device = self._verdict.device
        # float64 holds all that a loss may be in, unchanged.
        stacked = torch.stack([
            value.to(device, torch.float64, non_blocking=True)
            for value in (*values, self._verdict)
        ])
        on_host, copied = copy_to_host(stacked)
        return Step(
            iter=runner.iter + 1,
            epoch=runner.epoch + 1,
            where=f'batch {batch_idx + 1} of {len(runner.train_dataloader)}',
            lr={
                name: lr[0]
                for name, lr in runner.optim_wrapper.get_lr().items()
            },
            batch=batch,
            random_state=self._at_start.random_state,
            names=list(outputs),
            values=on_host,
            ends_window=self._optim_wrapper.should_update(),
            copied=copied)

    def _is_needed(self, runner, batch_idx: int) -> bool:
        """Whether something reads the losses after this iteration."""
        if (self.end_of_epoch(runner.train_dataloader, batch_idx)
                or self.is_last_train_iter(runner)):
            return True
        for hook in runner.hooks:
            if isinstance(hook, LoggerHook) and self.every_n_inner_iters(
                    batch_idx, hook.interval):
                return True
            if not isinstance(hook, CheckpointHook):
                continue
            if not hook.by_epoch and self.every_n_train_iters(
                    runner, hook.interval, hook.save_begin):
                return True
            within = getattr(hook, 'mid_epoch_interval', 0)
            if within and self.every_n_train_iters(runner, within):
                return True
        return False

    def _log(self, runner, step: Step) -> None:
        for name in step.names:
            runner.message_hub.update_scalar(f'train/{name}',
                                             step.terms[name])
        step.names = []  # once

    def _finish(self, runner, step: Step) -> None:
        verdict = step.read() if step.names else int(step.values[-1])
        if step.names:
            self._log(runner, step)
        if step.bad_terms():
            self._suspects.append(step)
        if not step.ends_window:
            return
        if verdict:
            self._refuse(runner, get_world_size() - verdict)
        self._suspects = []

    def _refuse(self, runner, culprit: int) -> None:
        """All processes arrive here after the same iteration."""
        self.skips += 1
        message = [None]
        if get_rank() == culprit:
            step = self._suspects[0]
            message = [
                describe_stop(
                    runner, step, self.skips, self.max_skips,
                    osp.join(runner.work_dir,
                             f'nonfinite_iter_{step.iter}_rank_{culprit}.pth'))
            ]
        broadcast_object_list(message, src=culprit)
        if self.skips > self.max_skips:
            raise NonFiniteLossError(message[0])
        runner.message_hub.update_info('skipped_steps', self.skips)
        runner.logger.warning(message[0])


def _decides_on_device(optimizer: torch.optim.Optimizer) -> bool:
    """Whether a step can be left out without the host's knowledge."""
    parameter = optimizer.param_groups[0]['params'][0]
    return (parameter.is_cuda and not isinstance(parameter, DTensor)
            and getattr(optimizer, '_step_supports_amp_scaling', False))
