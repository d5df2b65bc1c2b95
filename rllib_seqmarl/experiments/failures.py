"""The original message of an error that Ray has wrapped."""

from __future__ import annotations

import errno
import os
import re

from ray.exceptions import ActorDiedError, RayTaskError

# What these say stands by itself; any other class's name is part of the message.
_PLAIN = ("ValueError", "RuntimeError", "JointEnvError", "LayoutError", "NonFiniteLossError")


def root_message(error: BaseException) -> str:
    """One message for an error that came through Ray's tasks and actors: the original's own.

    Args:
        error: What a trial ended with.

    Returns:
        What the original error said, with its class's name where that tells more.
    """
    outer, inner = error, _wrapped(error)
    while inner is not None:
        outer, inner = inner, _wrapped(inner)
        if inner is None and not str(outer):  # RLlib raises an empty error from an environment's own
            return _first_in_traceback(str(error)) or type(outer).__name__
    return _say(type(outer).__name__, str(outer).strip())


def trial_message(error: BaseException, folder: str) -> str:
    """The error that ended a trial, in one message; for a full disk, with the folder on it."""
    return _disk_full(str(error), folder) or root_message(error)


def driver_message(error: BaseException, folder: str) -> str:
    """One line for an error of Tune itself, which it raises with a whole traceback as text."""
    text = str(error)
    last = (text.strip().splitlines() or [type(error).__name__])[-1]
    return _disk_full(text, folder) or f"{folder}: Tune stopped: {' '.join(last.split())}"


def _disk_full(text: str, folder: str) -> str | None:
    for reason in (os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT)):
        if reason in text:
            return f"{folder}: results cannot be written ({reason}); free some space and continue with --resume."
    return None


def _say(kind: str, message: str) -> str:
    if message and kind in _PLAIN:
        return message
    return f"{kind}: {message}" if message else kind


def _first_in_traceback(text: str) -> str | None:
    """The message of the first error in a chain of tracebacks: between processes, a cause travels as text."""
    first = text.split("\n\nThe above exception was the direct cause")[0]
    match = re.search(r"^(?:\w+\.)*(\w+): (.*)\Z", first[first.rfind("\n  File ") + 1 :], re.MULTILINE | re.DOTALL)
    return _say(match[1], match[2].strip()) if match else None


def _wrapped(error: BaseException) -> BaseException | None:
    if isinstance(error, RayTaskError):
        return error.cause if isinstance(error.cause, BaseException) else None
    if isinstance(error, ActorDiedError):  # an actor whose constructor failed
        return next((cause for cause in error.args if isinstance(cause, RayTaskError)), None)
    return None
