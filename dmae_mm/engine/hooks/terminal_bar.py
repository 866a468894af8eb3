import threading
from typing import Any, Dict, Optional, TextIO

from mmengine.logging import MessageHub
from tqdm import tqdm
from tqdm.utils import disp_len

_WIDE = ('{desc} {percentage:3.0f}% |{bar:10}| {n_fmt}/{total_fmt} {rate_fmt} '
         'left {remaining}{losses}')
_NARROW = '{percentage:3.0f}% {n_fmt}/{total_fmt} left {remaining}{losses}'


class TerminalBar(tqdm):
    """A bar that ends in as many losses as the terminal has room for.

    Args:
        terminal (TextIO): Where to draw.
        title (str): What is counted.
        total (int): Number of iterations.
        done (int): Those that were done before.
        hub (MessageHub, optional): Where the losses are.
    """
    # No thread: a worker that is forked while it draws would wait forever.
    monitor_interval = 0
    # Not tqdm's own lock, which is one with the workers': one that is killed
    # while it holds that would have this process wait forever.
    _lock = threading.RLock()

    def __init__(self, terminal: TextIO, title: str, total: int, done: int,
                 hub: Optional[MessageHub]) -> None:
        self._hub = hub
        super().__init__(
            desc=title,
            total=total,
            initial=done,
            file=terminal,
            leave=hub is not None,
            mininterval=0.25,
            miniters=1,
            dynamic_ncols=True)

    @property
    def format_dict(self) -> Dict[str, Any]:
        """What tqdm draws, called when it draws; with the losses."""
        values = dict(super().format_dict, losses='', bar_format=_WIDE)
        room = values['ncols'] - disp_len(self.format_meter(
            **dict(values, ncols=None)))
        if room < 0:  # a number of which the end is cut off would mislead
            values['bar_format'] = _NARROW
            room = values['ncols'] - disp_len(self.format_meter(**values))
        for name, value in self._losses().items():
            text = f'  {name} {value:.4g}'
            if len(text) > room:
                break
            values['losses'] += text
            room -= len(text)
        return values

    def _losses(self) -> Dict[str, float]:
        """The latest ones; numbers already, for which no device is asked."""
        scalars = self._hub.log_scalars if self._hub else {}
        return {
            name.removeprefix('train/'): buffer.current()
            for name, buffer in scalars.items()
            if name.startswith('train/') and 'loss' in name
        }
