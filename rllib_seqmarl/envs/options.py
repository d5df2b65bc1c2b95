"""Checks of options; messages name the option, its value and the allowed values."""

from collections.abc import Iterable
from typing import Any

from rllib_seqmarl.suggestions import did_you_mean


def check_names(owner: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Raise ValueError for the first option that `owner` does not have, suggesting similar ones."""
    known = list(known)
    for name in given:
        if name not in known:
            raise ValueError(
                f"{owner} has no option {name!r}.{did_you_mean(name, known)} It has: {', '.join(known) or 'none'}."
            )


def check_choice(name: str, value: Any, choices: Iterable[Any]) -> None:
    """Raise ValueError unless `value` is one of `choices`."""
    choices = list(choices)
    if value not in choices:
        raise ValueError(
            f"{name}={value!r} is unknown.{did_you_mean(str(value), map(str, choices))} "
            f"Choose one of {', '.join(map(str, choices))}."
        )


def check_number(
    name: str, value: Any, low: float | None = None, high: float | None = None, *, whole: bool = True
) -> None:
    """Raise ValueError unless `value` is a number (an integer if `whole`) from `low` to `high`."""
    kind: tuple[type, ...] = (int,) if whole else (int, float)
    inside = isinstance(value, kind) and not isinstance(value, bool)
    inside = inside and (low is None or value >= low) and (high is None or value <= high)
    if not inside:
        noun = "an integer" if whole else "a number"
        limits = f" from {low} to {high}" if None not in (low, high) else ""
        limits = limits or (f" >= {low}" if low is not None else f" <= {high}" if high is not None else "")
        raise ValueError(f"{name}={value!r} is out of range: give {noun}{limits}.")
