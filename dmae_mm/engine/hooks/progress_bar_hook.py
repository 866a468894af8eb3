import atexit
import os
import sys
from typing import Any, ClassVar, Dict, Optional, TextIO

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.hooks.hook import DATA_BATCH
from mmengine.runner import EpochBasedTrainLoop
from mmpretrain.registry import HOOKS

from dmae_mm.options import reject_unknown_options

from .screen import Screen
from .terminal_bar import TerminalBar

_TITLES = dict(train='training', val='validation', test='test')


@HOOKS.register_module()
@reject_unknown_options
class ProgressBarHook(Hook):
    """On a terminal, shows below the log how far a run is.

    One line with the share of all iterations, the rate, the time that is left
    and the current losses, four times a second at most; another one while
    it validates. The rate is that of the last seconds, and the time left
    follows from it; neither knows of validations to come.

    The losses are those that MMEngine's message hub holds already: nothing
    is asked of the GPU. Log lines, warnings and whatever else is printed
    appear above the bar. The log files are as without this hook.

    Where standard output is no terminal (a pipe, a file), the terminal cannot
    move its cursor (``TERM=dumb``) or Slurm runs the job, there is no bar, and
    nothing is changed. Of several processes, the first shows it.
    """
    # After whatever may log, so that the bar is shown last.
    priority = 'LOWEST'

    _shown: ClassVar[Optional['ProgressBarHook']] = None

    def __init__(self) -> None:
        self._screen: Optional[Screen] = None
        self._bars: Dict[str, TerminalBar] = {}

    def before_train(self, runner) -> None:
        self._open('train', runner, runner.max_iters, runner.iter)

    def before_train_epoch(self, runner) -> None:
        bar = self._bars.get('train')
        if bar is not None and isinstance(runner.train_loop,
                                          EpochBasedTrainLoop):
            bar.set_description_str(
                f'epoch {runner.epoch + 1}/{runner.max_epochs}',
                refresh=False)

    def after_train(self, runner) -> None:
        self._close('train')

    def before_val_epoch(self, runner) -> None:
        self._open('val', runner, len(runner.val_dataloader))

    def after_val_epoch(self, runner, metrics=None) -> None:
        self._close('val')

    def before_test_epoch(self, runner) -> None:
        self._open('test', runner, len(runner.test_dataloader))

    def after_test_epoch(self, runner, metrics=None) -> None:
        self._close('test')

    def _after_iter(self,
                    runner,
                    batch_idx: int,
                    data_batch: DATA_BATCH = None,
                    outputs: Any = None,
                    mode: str = 'train') -> None:
        bar = self._bars.get(mode)
        if bar is not None:
            # A loop may begin in the middle of an epoch.
            done = runner.iter if mode == 'train' else batch_idx
            bar.update(done + 1 - bar.n)

    def _open(self, mode: str, runner, total: int, done: int = 0) -> None:
        if not (is_main_process() and shows_bars(sys.stdout)):
            return
        if self._screen is None:
            if ProgressBarHook._shown:  # of a run that was given up
                ProgressBarHook._shown._close_all()
            ProgressBarHook._shown = self
            atexit.register(self._close_all)
            self._screen = Screen(runner.logger, self._bars)
        self._bars[mode] = TerminalBar(
            self._screen.terminal, _TITLES[mode], total, done,
            runner.message_hub if mode == 'train' else None)

    def _close(self, mode: str) -> None:
        bar = self._bars.pop(mode, None)
        if bar is not None:
            # The rate of the training does not count a validation in it.
            took = bar.format_dict['elapsed']
            for outer in self._bars.values():
                outer.start_t += took
                outer.last_print_t += took
            bar.close()
        if self._screen is not None and not self._bars:
            self._screen.restore()
            self._screen = ProgressBarHook._shown = None
            atexit.unregister(self._close_all)

    def _close_all(self) -> None:
        """Leave the cursor on a line of its own, whatever stopped the run."""
        for mode in list(reversed(self._bars)):
            self._close(mode)


def shows_bars(stream: TextIO) -> bool:
    """Whether a bar can be drawn there, and a person is likely to see it.

    Args:
        stream (TextIO): Standard output.

    Returns:
        bool: False for what is no terminal, a dumb one or one of unknown
        width, and under Slurm, whose log files would be filled with bars.
    """
    return (stream.isatty() and os.environ.get('TERM', 'dumb') != 'dumb'
            and 'SLURM_JOB_ID' not in os.environ
            and os.get_terminal_size(stream.fileno()).columns > 0)
