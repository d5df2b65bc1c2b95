"""The error that the command line shows as a plain message, and a collector of several such errors."""

from collections.abc import Callable
from typing import Any


class ExperimentError(Exception):
    """An error for the user to fix. Its message names the location, the problem and the remedy."""


class Problems:
    """Collects errors, so that the user gets all of them at once."""

    def __init__(self) -> None:
        self._lines: dict[str, None] = {}  # an ordered set, since experiments may share lines by YAML anchors

    def add(self, message: str) -> None:
        self._lines |= dict.fromkeys(message.splitlines())

    def of(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a function and return its result; if it raises an `ExperimentError`, collect it and return None."""
        try:
            return function(*args, **kwargs)
        except ExperimentError as error:
            self.add(str(error))

    def report(self) -> None:
        """Raise an `ExperimentError` with a line for each problem, if there are any."""
        if self._lines:
            raise ExperimentError("\n".join(self._lines))
