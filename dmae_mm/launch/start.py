"""Build and start a run; what goes wrong before its second step is explained.
"""
import logging
import os.path as osp
import shlex
import sys
import traceback
from typing import Any

from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from dmae_mm.engine.hooks import AtomicCheckpointHook, FollowConfigHook
from dmae_mm.engine.hooks.finite_loss_hook import NonFiniteLossError
from dmae_mm.engine.hooks.learning_rate_hook import LearningRateHook
from dmae_mm.engine.loaders import check_not_empty

from .explain import explain
from .recipe_length import leave_out_short_warm_up

TRACEBACK = 'start_error.txt'
_IDLE = ('"FileClient" will be deprecated in future.',
         '"HardDiskBackend" is the alias of "LocalBackend"',
         'Auto resumed from the latest checkpoint None.')


def start(cfg: Config) -> None:
    """Train.

    Args:
        cfg (Config): Completed.

    Raises:
        SystemExit: With a message instead of a traceback, if a loss is not
            finite, or if anything goes wrong in building the run or in its
            first step. That traceback is written to a file in the work dir.
        OSError: As it comes, a full disk, for example.
    """
    begun, message = _Begun(), None
    try:
        runner = build_runner(cfg)
        # MMEngine logs the config, but not how the run was started.
        runner.logger.info(f'Command: {shlex.join(sys.argv)}')
        runner.register_hook(begun, priority='VERY_LOW')
        if 'learning_rate' not in cfg.get('default_hooks', {}):
            runner.register_hook(LearningRateHook())
        runner.train()
    except NonFiniteLossError as error:
        message = str(error) if is_main_process() else 1
    except Exception as error:  # whatever a class raises
        if begun.iterations or (isinstance(error, OSError)
                                and not isinstance(error, FileNotFoundError)):
            raise
        message = _explained(error, cfg)
    if message is not None:
        sys.exit(message)


def build_runner(cfg: Config) -> Runner:
    """The runner that the config asks for, with what every start checks.

    Raises:
        ValueError: If the training data give no batch.
    """
    runner = RUNNERS.build(cfg) if 'runner_type' in cfg else (
        Runner.from_cfg(cfg))
    shorten_console(runner.logger)
    if not any(isinstance(hook, (FollowConfigHook, AtomicCheckpointHook))
               for hook in runner.hooks):
        runner.register_hook(FollowConfigHook())
    # Before schedules that count batches are built, which would fail.
    check_not_empty(runner.train_loop.dataloader, 'train_dataloader')
    leave_out_short_warm_up(runner)
    return runner


def shorten_console(logger: logging.Logger) -> None:
    """Leave out what MMEngine says at every start and nobody can act on.

    One line per parameter of the optimizer goes to the log file only; lines
    on its own deprecated classes, and that it resumes from nothing, nowhere.
    """
    logger.addFilter(lambda record: not record.getMessage().startswith(_IDLE))
    for handler in logger.handlers:
        if type(handler) is logging.StreamHandler:
            handler.addFilter(lambda record: not record.getMessage().
                              startswith('paramwise_options'))


class _Begun(Hook):
    """Knows whether a step has been made."""
    iterations = 0

    def after_train_iter(self, runner, batch_idx: int, data_batch: Any = None,
                         outputs: Any = None) -> None:
        self.iterations += 1


def _explained(error: Exception, cfg: Config) -> str:
    path = osp.join(cfg.work_dir, TRACEBACK)
    message = f'error: {explain(error, cfg)}'
    try:
        with open(path, 'w', encoding='utf-8') as file:
            file.write(''.join(traceback.format_exception(error)))
    except OSError:
        return message + '\n' + traceback.format_exc()
    return f'{message}\nThe run was not started. Traceback: {path}'
