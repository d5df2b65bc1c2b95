"""What went wrong, in the words of whoever noticed it, out of the wrappings that Ray puts around an error."""

from __future__ import annotations

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


def _say(kind: str, message: str) -> str:
    if message and kind in _PLAIN:
        return message
    return f"{kind}: {message}" if message else kind


def _first_in_traceback(text: str) -> str | None:
    """What the first error in a chain of tracebacks said: between processes, a cause travels as text."""
    first = text.split("\n\nThe above exception was the direct cause")[0]
    match = re.search(r"^(?:\w+\.)*(\w+): (.*)\Z", first[first.rfind("\n  File ") + 1 :], re.MULTILINE | re.DOTALL)
    return _say(match[1], match[2].strip()) if match else None


def _wrapped(error: BaseException) -> BaseException | None:
    if isinstance(error, RayTaskError):
        return error.cause if isinstance(error.cause, BaseException) else None
    if isinstance(error, ActorDiedError):  # an actor whose constructor failed
        return next((cause for cause in error.args if isinstance(cause, RayTaskError)), None)
    return None
