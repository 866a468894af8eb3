import os.path as osp
from collections import deque
from typing import Any, Deque, List, Optional, Tuple

import torch
import torch.distributed as dist
import torch.nn as nn
from mmengine.dist import (all_gather_object, broadcast_object_list, get_rank,
                           get_world_size)
from mmengine.hooks import CheckpointHook, LoggerHook, RuntimeInfoHook
from mmengine.optim import OptimWrapper
from mmengine.runner import find_latest_checkpoint
from mmpretrain.registry import HOOKS
from torch.distributed.tensor import DTensor

from dmae_mm.engine.step_dump import Step, dump_step, random_state
from dmae_mm.host import unwrapped_model
from dmae_mm.models import Standardize
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
    of the images, and ``nonfinite_iter_N_rank_R.pth`` in the work dir, with
    which ``tools/replay_step.py`` repeats the step. Gradients that the
    ``GradScaler`` of mixed precision finds to be infinite are no error: the
    loss is what is looked at.

    **What it costs.** MMEngine's hook has the host wait for each loss of each
    iteration. Here all are copied at once, without waiting, and are read in
    the next iteration, or at once where they are logged or a checkpoint is
    due; what is logged is the same. The decision to leave out an optimizer
    step stays on the device with optimizers that can do so (``fused=True``);
    for others, the host waits once per optimizer step. Several processes agree
    on one number per optimizer step.

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
        self._unread: Deque[tuple] = deque()  # arguments of _finish
        self._first_bad: Optional[Step] = None  # of the batches accumulated

    def before_train(self, runner) -> None:
        super().before_train(runner)
        self._optim_wrapper = optim_wrapper = runner.optim_wrapper
        if not isinstance(optim_wrapper, OptimWrapper):
            raise ValueError(
                'FiniteLossHook needs a single optimizer, but optim_wrapper '
                f'is a {type(optim_wrapper).__name__}. Set default_hooks.'
                'runtime_info.type=RuntimeInfoHook to train without it.')
        device = next(runner.model.parameters()).device
        self.skips = runner.message_hub.get_info('skipped_steps', 0)
        self._skips = torch.tensor(float(self.skips), device=device)
        self._bad = self._verdict = torch.zeros((), device=device)
        model = unwrapped_model(runner)
        # Other buffers that a step changes, such as those of batch norms, are
        # not read in it.
        self._running = {
            f'{prefix}.{name}': buffer
            for prefix, module in model.named_modules()
            if isinstance(module, Standardize)
            for name, buffer in module.named_buffers()
        }
        self._note_state()
        # It begins a step: nothing has been drawn yet.
        model.data_preprocessor.register_forward_pre_hook(self._note_state)
        model.register_forward_hook(self._judge_losses, with_kwargs=True)
        optim_wrapper.optimizer.register_step_pre_hook(self._guard_step)
        optim_wrapper.optimizer.register_step_post_hook(self._end_guard)

    @torch.compiler.disable
    def _note_state(self, preprocessor: Optional[nn.Module] = None,
                    *args) -> None:
        if preprocessor is not None and not preprocessor.training:
            return  # no step: see _judge_losses
        self._random_state = random_state()
        self._statistics = {
            name: buffer.clone() for name, buffer in self._running.items()
        }

    @torch.compiler.disable
    @torch.no_grad()
    def _judge_losses(self, model: nn.Module, args: tuple, kwargs: dict,
                      losses: Any) -> None:
        """Before the gradients are computed: is there a non-finite loss?

        The verdict on the optimizer step that follows is 1 if there was one
        in any process and accumulated batch, and else 0.
        """
        # In eval mode, it is no step, but a picture of what the model makes of
        # an image, and one process may draw it alone.
        if kwargs.get('mode') != 'loss' or not model.training:
            return
        total, _ = model.parse_losses(losses)
        self._bad = torch.maximum(self._bad, (~total.isfinite()).float())
        if not self._optim_wrapper.should_sync():  # more batches follow
            self._verdict = torch.zeros_like(self._bad)
            return
        self._verdict, self._bad = self._bad, torch.zeros_like(self._bad)
        if get_world_size() > 1:
            dist.all_reduce(self._verdict, dist.ReduceOp.MAX)
        self._skips = self._skips + self._verdict

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
            found = getattr(optimizer, 'found_inf', None)  # by a GradScaler
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

    @torch.no_grad()
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
        step = Step(
            iter=runner.iter + 1,
            epoch=runner.epoch + 1,
            where=f'batch {batch_idx + 1} of {len(runner.train_dataloader)}',
            lr={
                name: lr[0]
                for name, lr in runner.optim_wrapper.get_lr().items()
            },
            batch=data_batch,
            random_state=self._random_state,
            statistics=self._statistics)
        # float64 holds all that a loss may be in, unchanged; Apple's devices
        # have none, nor losses in it.
        device = self._verdict.device
        to = dict(
            device=device,
            dtype=torch.float32 if device.type == 'mps' else torch.float64)
        numbers, copied = copy_to_host(
            torch.stack([
                torch.as_tensor(value, **to).reshape(())
                for value in (*outputs.values(), self._verdict)
            ]))
        self._unread.append((runner, step, list(outputs), numbers, copied))
        wait = copied is not None and not self._is_needed(runner, batch_idx)
        while len(self._unread) > wait:
            self._finish(*self._unread.popleft())

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        """Complete the log of a checkpoint written at an unusual moment.

        Its weights are good: no bad step reaches them. Several processes stop
        together, after this iteration or the next; a single one at once.
        """
        for unread in list(self._unread):
            if get_world_size() == 1:
                self._finish(*self._unread.popleft())
            else:
                self._log(*unread)
            checkpoint['message_hub'] = runner.message_hub.state_dict()

    def _is_needed(self, runner, batch_idx: int) -> bool:
        """Whether losses are logged, or a checkpoint is due, just now."""
        needed = (
            self.end_of_epoch(runner.train_dataloader, batch_idx)
            or self.is_last_train_iter(runner))
        for hook in runner.hooks:
            if isinstance(hook, LoggerHook):
                needed |= self.every_n_inner_iters(batch_idx, hook.interval)
            elif isinstance(hook, CheckpointHook):
                needed |= self.every_n_train_iters(
                    runner, getattr(hook, 'mid_epoch_interval', 0))
                needed |= not hook.by_epoch and self.every_n_train_iters(
                    runner, hook.interval, hook.save_begin)
        return needed

    def _log(self, runner, step: Step, names: List[str],
             numbers: torch.Tensor,
             copied: Optional['torch.cuda.Event']) -> int:
        """Wait for the losses, log them once, and return the verdict."""
        if copied is not None:
            copied.synchronize()
        *losses, verdict = numbers.tolist()
        if not step.terms:
            step.terms = dict(zip(names, losses))
            for name, value in step.terms.items():
                runner.message_hub.update_scalar(f'train/{name}', value)
        return int(verdict)

    def _finish(self, runner, step: Step, *numbers) -> None:
        verdict = self._log(runner, step, *numbers)
        if step.bad_terms():
            self._first_bad = self._first_bad or step
        if verdict:  # all processes are here, after the same iteration
            self.skips += 1
            bad = all_gather_object(self._first_bad is not None)
            culprit, message = bad.index(True), [None]
            if get_rank() == culprit:
                message = [self._describe(runner, self._first_bad)]
            broadcast_object_list(message, src=culprit)
            if self.skips > self.max_skips:
                raise NonFiniteLossError(message[0])
            runner.message_hub.update_info('skipped_steps', self.skips)
            runner.logger.warning(message[0])
            self._first_bad = None

    def _describe(self, runner, step: Step) -> str:
        """What has happened; the step is dumped if the run stops."""
        skips, limit = self.skips, f'max_skips={self.max_skips}'
        if skips <= self.max_skips:
            return (f'{step.summary()}\nThis optimizer step is left out; '
                    'weights and optimizer state are unchanged. Skipped so '
                    f'far: {skips}, {limit}.')
        last = find_latest_checkpoint(runner.work_dir)
        before = (f'; {skips - 1} were skipped before, {limit}'
                  if self.max_skips else '')
        path = osp.join(runner.work_dir,
                        f'nonfinite_iter_{step.iter}_rank_{get_rank()}.pth')
        return (f'{step.summary()}\nThe training stops. Weights and optimizer '
                f'state did not take in this step{before}.\n'
                f'{dump_step(runner, unwrapped_model(runner), step, path)}\n'
                f'Last checkpoint: {last or "none yet"}. If the images are as '
                'they should be, a lower learning rate, clip_grad or bfloat16 '
                'instead of float16 may help. '
                f'default_hooks.runtime_info.max_skips={skips} leaves out '
                f'{skips} such step{"s" * (skips > 1)}.')


def copy_to_host(
    numbers: torch.Tensor
) -> Tuple[torch.Tensor, Optional['torch.cuda.Event']]:
    """Start a copy; the event, if any, tells when it has arrived."""
    # From a GPU, to pinned memory. No other copy is waited for.
    copy = numbers.to('cpu', non_blocking=numbers.is_cuda)
    return copy, (torch.cuda.current_stream().record_event()
                  if numbers.is_cuda else None)


def _decides_on_device(optimizer: torch.optim.Optimizer) -> bool:
    """Whether a step can be left out without the host's knowledge."""
    parameter = optimizer.param_groups[0]['params'][0]
    return (parameter.is_cuda and not isinstance(parameter, DTensor)
            and getattr(optimizer, '_step_supports_amp_scaling', False))
