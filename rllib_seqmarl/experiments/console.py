"""Shows the package's log messages to people at a terminal, and says that work goes on when none comes for a while."""

from __future__ import annotations

import logging
import threading
import time
from types import TracebackType
from typing import Self

import click

_LOGGER = logging.getLogger("rllib_seqmarl")


class Console(logging.Handler):
    """Prints log messages as plain lines while it is entered.

    A message may name the work that it announces: `logger.info("...", extra={"under_way": "starting Ray"})`. After
    each `interval` seconds of silence, that work is named again with the time it has taken, until another message
    follows.
    """

    def __init__(self, interval: float = 5.0) -> None:
        """Initialises the handler.

        Args:
            interval: Seconds of silence after which a line is printed.
        """
        super().__init__()
        self._interval = interval
        self._under_way: str | None = None
        self._since = time.monotonic()
        self._spoken = threading.Event()
        self._closed = False

    def emit(self, record: logging.LogRecord) -> None:
        click.echo(self.format(record))
        self._under_way, self._since = getattr(record, "under_way", None), time.monotonic()
        self._spoken.set()

    def __enter__(self) -> Self:
        self._level = _LOGGER.level
        _LOGGER.addHandler(self)
        _LOGGER.setLevel(logging.INFO)
        self._thread = threading.Thread(target=self._fill_silence, name="console", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        _LOGGER.removeHandler(self)
        _LOGGER.setLevel(self._level)
        self._closed = True
        self._spoken.set()
        self._thread.join()

    def _fill_silence(self) -> None:
        while not self._closed:
            if self._spoken.wait(self._interval):
                self._spoken.clear()
            elif self._under_way is not None:
                click.echo(f"{self._under_way}: {time.monotonic() - self._since:.0f} s so far")
