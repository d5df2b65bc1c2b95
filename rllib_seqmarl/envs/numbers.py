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
    if isinstance(value, int | float | np.number | np.bool_):
        number = float(value)
    else:
        array = np.asarray(value)
        if array.size != 1 or array.dtype.kind not in "biuf":
            raise JointEnvError(f"{what} must be a number, not {_brief(value)}.")
        number = float(array.item())
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
    array = np.asarray(value)
    if array.size != 1 or array.dtype.kind not in "biuf" or array.item() not in (0, 1):
        raise JointEnvError(f"{what} must be True or False, not {_brief(value)}.")
    return bool(array.item())


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
