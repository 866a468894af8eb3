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
from mmengine.logging import MMLogger
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


_FROZEN = 'is skipped since its requires_grad=False'
# What only the log file of a brief run has.
_DETAILS = ('\n---', 'Config:', 'Distributed training is not used',
            'Hooks will be executed', 'Command: ', 'Exp name: ',
            'Checkpoints will be saved to', 'Saving checkpoint at',
            'backbone out_', 'The student is in ')


def start(cfg: Config, brief: bool = False) -> None:
    """Train.

    Args:
        cfg (Config): Completed.
        brief (bool): Whether the console is spared what a person who has
            written no config cannot use: environment, config, hooks. The log
            file has it. Defaults to False.

    Raises:
        SystemExit: With a message instead of a traceback, if a loss is not
            finite, or if anything goes wrong in building the run or in its
            first step. That traceback is written to a file in the work dir.
        OSError: As it comes, a full disk, for example.
    """
    begun, message = _Begun(), None
    try:
        runner = build_runner(cfg, brief)
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


def build_runner(cfg: Config, brief: bool = False) -> Runner:
    """The runner that the config asks for, with what every start checks.

    Args:
        cfg (Config): Completed.
        brief (bool): See :func:`start`. Defaults to False.

    Raises:
        ValueError: If the training data give no batch.
    """
    if 'runner_type' in cfg:
        runner = RUNNERS.build(cfg)
        shorten_console(runner.logger, brief)
    else:
        runner = (_BriefRunner if brief else _Runner).from_cfg(cfg)
    if not any(isinstance(hook, (FollowConfigHook, AtomicCheckpointHook))
               for hook in runner.hooks):
        runner.register_hook(FollowConfigHook())
    # Before schedules that count batches are built, which would fail.
    check_not_empty(runner.train_loop.dataloader, 'train_dataloader')
    leave_out_short_warm_up(runner)
    return runner


class _Runner(Runner):
    """MMEngine's, which says less from its first line on."""
    brief = False

    def build_logger(self, *args: Any, **kwargs: Any) -> MMLogger:
        logger = super().build_logger(*args, **kwargs)
        shorten_console(logger, self.brief)
        return logger


class _BriefRunner(_Runner):
    brief = True


def shorten_console(logger: logging.Logger, brief: bool = False) -> None:
    """Leave out what MMEngine says at every start and nobody can act on.

    One line per parameter of the optimizer, and per frozen one that it does
    not have, goes to the log file only; lines
    on its own deprecated classes, and that it resumes from nothing, nowhere.

    Args:
        logger (Logger): Of a run.
        brief (bool): See :func:`start`. Defaults to False.
    """
    left_out = ('paramwise_options', *_DETAILS * brief)
    logger.addFilter(lambda record: not record.getMessage().startswith(_IDLE))
    for handler in logger.handlers:
        if type(handler) is logging.StreamHandler:
            handler.addFilter(
                lambda record: not record.getMessage().startswith(left_out)
                and not record.getMessage().endswith(_FROZEN))


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
