import logging
import sys
from typing import Any, Dict, TextIO

from .terminal_bar import TerminalBar


class Screen:
    """Has all that is printed appear above the bars, until restored.

    Args:
        logger (logging.Logger): Keeps standard output in its handlers.
        bars (dict): The bars that are shown at a time.
    """

    def __init__(self, logger: logging.Logger,
                 bars: Dict[str, TerminalBar]) -> None:
        self.terminal = sys.stdout
        self._replaced = {
            name: (stream, _Above(stream, self.terminal, bars))
            for name, stream in (('stdout', sys.stdout),
                                 ('stderr', sys.stderr)) if stream.isatty()
        }
        self._handlers = [
            handler for handler in logger.handlers
            if type(handler) is logging.StreamHandler
        ]
        self._replace({old: new for old, new in self._replaced.values()})

    def restore(self) -> None:
        """Give back what is still ours."""
        for _, above in self._replaced.values():
            above.flush()
        self._replace({new: old for old, new in self._replaced.values()})

    def _replace(self, streams: Dict[TextIO, TextIO]) -> None:
        for name in self._replaced:
            stream = getattr(sys, name)
            setattr(sys, name, streams.get(stream, stream))
        for handler in self._handlers:
            if handler.stream in streams:
                handler.setStream(streams[handler.stream])


class _Above:
    """A stream whose lines appear above the bars.

    What does not end a line is kept until it does, or until it is flushed as
    the prompt of a debugger is.

    Args:
        stream (TextIO): Where the text goes.
        terminal (TextIO): Where the bars are drawn.
        bars (dict): The bars that are shown at a time.
    """

    def __init__(self, stream: TextIO, terminal: TextIO,
                 bars: Dict[str, TerminalBar]) -> None:
        self._stream, self._terminal, self._bars = stream, terminal, bars
        self._partial = ''

    def write(self, text: str) -> int:
        """Write whole lines."""
        lines, newline, self._partial = (self._partial + text).rpartition('\n')
        if newline:
            with TerminalBar.external_write_mode(self._terminal):
                self._stream.write(lines + newline)
                self._stream.flush()
        return len(text)

    def flush(self) -> None:
        """Write what is left of a line, in the place of the bar."""
        if self._partial:
            for bar in self._bars.values():
                bar.clear()
            self._stream.write(self._partial)
            self._partial = ''
        self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
