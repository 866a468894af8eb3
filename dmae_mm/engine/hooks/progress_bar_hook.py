import atexit
import contextlib
import logging
import os
import sys
import threading
from typing import Any, Dict, Optional, TextIO

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.hooks.hook import DATA_BATCH
from mmengine.logging import MessageHub
from mmengine.runner import EpochBasedTrainLoop
from mmpretrain.registry import HOOKS
from tqdm import tqdm
from tqdm.contrib import DummyTqdmFile

from dmae_mm.options import reject_unknown_options

_WIDE = ('{desc} {percentage:3.0f}% |{bar:10}| {n_fmt}/{total_fmt} {rate_fmt} '
         'left {remaining}{losses}')
_NARROW = '{percentage:3.0f}% {n_fmt}/{total_fmt} left {remaining}{losses}'
# What a run has redirected, and its bars. Whatever stops a run, the cursor
# then stands on a line of its own, and the streams are as they were.
_SHOWN = contextlib.ExitStack()
atexit.register(_SHOWN.close)


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

    def __init__(self) -> None:
        self._bars: Dict[str, tqdm] = {}

    def before_train(self, runner) -> None:
        self._open('train', runner, 'training', runner.max_iters, runner.iter)

    def before_train_epoch(self, runner) -> None:
        if 'train' in self._bars and isinstance(runner.train_loop,
                                                EpochBasedTrainLoop):
            self._bars['train'].set_description_str(
                f'epoch {runner.epoch + 1}/{runner.max_epochs}',
                refresh=False)

    def after_train(self, runner) -> None:
        self._close('train')

    def before_val_epoch(self, runner) -> None:
        self._open('val', runner, 'validation', len(runner.val_dataloader))

    def after_val_epoch(self, runner, metrics=None) -> None:
        self._close('val')
        if 'train' in self._bars:  # whose rate does not count a validation
            self._bars['train'].unpause()

    def before_test_epoch(self, runner) -> None:
        self._open('test', runner, 'test', len(runner.test_dataloader))

    def after_test_epoch(self, runner, metrics=None) -> None:
        self._close('test')

    def _after_iter(self,
                    runner,
                    batch_idx: int,
                    data_batch: DATA_BATCH = None,
                    outputs: Any = None,
                    mode: str = 'train') -> None:
        if mode in self._bars:
            bar = self._bars[mode]
            # A loop may begin in the middle of an epoch.
            done = runner.iter if mode == 'train' else batch_idx
            bar.update(done + 1 - bar.n)

    def _open(self, mode: str, runner, title: str, total: int,
              done: int = 0) -> None:
        if not self._bars:
            _SHOWN.close()  # of a run that was given up
            if not (is_main_process() and shows_bars(sys.stdout)):
                return
            self._terminal = sys.stdout
            _print_above_bars(runner.logger)
        bar = _Bar(
            desc=title,
            total=total,
            initial=done,
            file=self._terminal,
            leave=mode == 'train',
            mininterval=0.25,
            miniters=1,
            dynamic_ncols=True)
        if mode == 'train':
            bar.hub = runner.message_hub
        self._bars[mode] = _SHOWN.enter_context(bar)

    def _close(self, mode: str) -> None:
        if mode in self._bars:
            self._bars.pop(mode).close()
            if not self._bars:
                _SHOWN.close()


class _Bar(tqdm):
    """Ends in as many losses as the terminal has room for."""
    # No thread: a worker that is forked while it draws would wait forever.
    monitor_interval = 0
    hub: Optional[MessageHub] = None

    @property
    def format_dict(self) -> Dict[str, Any]:
        """What tqdm draws, called when it draws; with the losses."""
        values = dict(super().format_dict, losses='', bar_format=_WIDE)
        room = values['ncols'] - len(
            self.format_meter(**dict(values, ncols=None)))
        if room < 0:  # a number of which the end is cut off would mislead
            values['bar_format'] = _NARROW
            room = values['ncols'] - len(self.format_meter(**values))
        for name, buffer in (self.hub.log_scalars if self.hub else {}).items():
            if name.startswith('train/') and 'loss' in name:
                # A number already: no device is asked.
                text = f'  {name[len("train/"):]} {buffer.current():.4g}'
                if len(text) > room:
                    break
                values['losses'] += text
                room -= len(text)
        return values


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


def _print_above_bars(logger: logging.Logger) -> None:
    """Until :data:`_SHOWN` is closed, for what goes to the terminal."""
    # tqdm's own lock is one with the workers': one that is killed while it
    # holds that would have this process wait forever.
    tqdm.set_lock(threading.RLock())
    above = DummyTqdmFile(sys.stdout)
    for handler in logger.handlers:
        if getattr(handler, 'stream', None) is sys.stdout:
            _SHOWN.callback(handler.setStream, handler.setStream(above))
    if sys.stderr.isatty():
        _SHOWN.enter_context(contextlib.redirect_stderr(above))
    _SHOWN.enter_context(contextlib.redirect_stdout(above))
