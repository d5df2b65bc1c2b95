"""Parsing of numbers and flags returned by environments: Python's, NumPy's, or arrays with one entry."""

import math
from typing import Any

import numpy as np

from rllib_seqmarl.envs.errors import JointEnvError


def as_number(value: Any, what: str) -> float:
    """Convert a value to a finite number; `what` describes it in messages.

    Raises:
        JointEnvError: It is not a number, or not finite.
    """
    try:
        number = float(value if isinstance(value, int | float | np.number | np.bool_) else _single(value))
    except (ValueError, TypeError, OverflowError):
        raise JointEnvError(f"{what} must be a number, not {_brief(value)}.") from None
    if not math.isfinite(number):
        raise JointEnvError(f"{what} is {number}.")
    return number


def as_flag(value: Any, what: str) -> bool:
    """Convert True, False, 1 or 0 to a bool; `what` describes the value in messages.

    Raises:
        JointEnvError: It is none of these.
    """
    if isinstance(value, bool | np.bool_):
        return bool(value)
    try:
        number = _single(value)
    except (ValueError, TypeError):
        number = None
    if number not in (0, 1):
        raise JointEnvError(f"{what} must be True or False, not {_brief(value)}.")
    return bool(number)


def _single(value: Any) -> Any:
    """Return the only entry of an array of numbers; raise ValueError or TypeError for anything else."""
    array = np.asarray(value)
    if array.size != 1 or array.dtype.kind not in "biuf":
        raise ValueError("not a single number")
    return array.item()


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
