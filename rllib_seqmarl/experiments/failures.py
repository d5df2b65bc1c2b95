"""Extraction of the original message from errors wrapped by Ray."""

import errno
import os
import re

from ray.exceptions import ActorDiedError, RayTaskError

# Errors whose message needs no class name in front.
_SELF_EXPLANATORY = ("ValueError", "RuntimeError", "JointEnvError", "LayoutError", "NonFiniteLossError")


def root_message(error: BaseException) -> str:
    """Return the message of the original error inside Ray's errors, with its class name if that adds information."""
    outer, inner = error, _cause(error)
    while inner is not None:
        outer, inner = inner, _cause(inner)
        if inner is None and not str(outer):  # RLlib raises an empty error from the environment's error
            return _first_in_traceback(str(error)) or type(outer).__name__
    return _format(type(outer).__name__, str(outer).strip())


def trial_message(error: BaseException, folder: str) -> str:
    """Return the message of the error that ended a trial; for a full disk, names the folder."""
    return _disk_full(str(error), folder) or root_message(error)


def driver_message(error: BaseException, folder: str) -> str:
    """Return a one-line message for an error of Tune itself, whose text includes a whole traceback."""
    text = str(error)
    last = (text.strip().splitlines() or [type(error).__name__])[-1]
    return _disk_full(text, folder) or f"{folder}: Tune stopped: {' '.join(last.split())}"


def _disk_full(text: str, folder: str) -> str | None:
    for reason in (os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT)):
        if reason in text:
            return f"{folder}: results cannot be written ({reason}); free some space and continue with --resume."
    return None


def _format(kind: str, message: str) -> str:
    if message and kind in _SELF_EXPLANATORY:
        return message
    return f"{kind}: {message}" if message else kind


def _first_in_traceback(text: str) -> str | None:
    """Return the message of the first error in a chain of tracebacks; Ray sends causes between processes as text."""
    first = text.split("\n\nThe above exception was the direct cause")[0]
    match = re.search(r"^(?:\w+\.)*(\w+): (.*)\Z", first[first.rfind("\n  File ") + 1 :], re.MULTILINE | re.DOTALL)
    return _format(match[1], match[2].strip()) if match else None


def _cause(error: BaseException) -> BaseException | None:
    if isinstance(error, RayTaskError):
        return error.cause if isinstance(error.cause, BaseException) else None
    if isinstance(error, ActorDiedError):  # an actor whose constructor failed
        return next((cause for cause in error.args if isinstance(cause, RayTaskError)), None)
    return None
