"""The one error that the command line shows as a single message, and how several become one."""

from collections.abc import Iterator
from contextlib import contextmanager


class ExperimentError(Exception):
    """Something the user must put right; its text is the whole message: where, what, and the remedy."""


class Problems:
    """Collects errors, so that a user reads all of them at once."""

    def __init__(self) -> None:
        self._lines: dict[str, None] = {}  # ordered, and each said once: experiments may share lines by anchors

    def add(self, message: str) -> None:
        self._lines |= dict.fromkeys(message.splitlines())

    @contextmanager
    def collect(self) -> Iterator[None]:
        """Keeps an `ExperimentError` of the body for the report."""
        try:
            yield
        except ExperimentError as error:
            self.add(str(error))

    def report(self) -> None:
        """Raises an `ExperimentError` with a line for each problem, if there is any."""
        if self._lines:
            raise ExperimentError("\n".join(self._lines))
