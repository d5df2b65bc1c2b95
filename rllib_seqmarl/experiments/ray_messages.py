"""Shortening of Ray's messages about failed actors and killed workers to one line each."""

import logging
from typing import Any

_LONGEST = 240


def one_line(text: str) -> str:
    """Return a message as one line of bounded length, without its indented details."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line[0].isspace()]
    line = " ".join(lines)
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 4]} ..."


class OneLine(logging.Filter):
    """Shortens Ray's log records to one line; tracebacks go to Ray's log files."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name.partition(".")[0] == "ray":  # the handler may be shared with other loggers
            record.msg, record.args = one_line(record.getMessage()), ()
            record.exc_info = record.exc_text = record.stack_info = None
        return True


def shorten_ray_messages() -> None:
    """Shorten the messages of Ray's loggers and its "(raylet)" output in this process. Idempotent."""
    from ray._private import worker

    for handler in logging.getLogger("ray").handlers:
        if not any(isinstance(known, OneLine) for known in handler.filters):
            handler.addFilter(OneLine())
    printed = worker.print_to_stdstream
    if getattr(printed, "shortens", False):
        return

    def shortened(data: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        if data.get("pid") == "raylet":  # errors of the cluster, such as a killed worker
            data = data | {"lines": [one_line(line) for line in data["lines"]]}
        printed(data, *args, **kwargs)

    shortened.shortens = True  # type: ignore[attr-defined]
    worker.print_to_stdstream = shortened
