"""Terminal output of the package's log messages, with progress lines during long silences."""

import logging
import threading
import time
from types import TracebackType
from typing import Self

import click

_LOGGER = logging.getLogger("rllib_seqmarl")


class Console(logging.Handler):
    """Prints log messages as plain lines inside a `with` block.

    A message may name the task that it announces: `logger.info("...", extra={"under_way": "starting Ray"})`. After
    every `interval` seconds of silence, the task is printed again with its elapsed time, until the next message.
    """

    def __init__(self, interval: float = 5.0) -> None:
        super().__init__()
        self._interval = interval
        self._under_way: str | None = None
        self._since = time.monotonic()
        self._printed = threading.Event()
        self._closed = False

    def emit(self, record: logging.LogRecord) -> None:
        click.echo(self.format(record))
        self._under_way, self._since = getattr(record, "under_way", None), time.monotonic()
        self._printed.set()

    def __enter__(self) -> Self:
        self._level = _LOGGER.level
        _LOGGER.addHandler(self)
        _LOGGER.setLevel(logging.INFO)
        self._thread = threading.Thread(target=self._print_progress, name="console", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        _LOGGER.removeHandler(self)
        _LOGGER.setLevel(self._level)
        self._closed = True
        self._printed.set()
        self._thread.join()

    def _print_progress(self) -> None:
        while not self._closed:
            if self._printed.wait(self._interval):
                self._printed.clear()
            elif self._under_way is not None:
                click.echo(f"{self._under_way}: {time.monotonic() - self._since:.0f} s so far")
