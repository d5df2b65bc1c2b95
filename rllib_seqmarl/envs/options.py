"""Checks of options; messages name the option, its value and the allowed values."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from types import NoneType, UnionType
from typing import Any, get_args

from rllib_seqmarl.suggestions import did_you_mean

Limits = Mapping[str, float | tuple[float, float]]  # the lowest value of a number, or its lowest and highest


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


def check_options(
    make: Callable[..., Any],
    options: Mapping[str, Any],
    limits: Limits | None = None,
    *,
    owner: str = "",
    render_modes: Iterable[str] = ("rgb_array",),
) -> None:
    """Raise ValueError for the first flag, number or render mode that is not among the allowed ones.

    Args:
        make: The class or function that takes the options. Annotations or defaults of its parameters tell which options
            are flags, integers and real numbers, and which may be None; others are not checked.
        options: The options.
        limits: The limits of numbers that have any.
        owner: What `make` makes, to reject names that it does not have; if empty, they are ignored.
        render_modes: The allowed values of `render_mode`, besides None.
    """
    parameters = inspect.signature(make, eval_str=True).parameters
    if owner:
        check_names(owner, options, parameters)
    for name, parameter in parameters.items():
        annotated = parameter.annotation
        kinds = {type(parameter.default), *(get_args(annotated) if isinstance(annotated, UnionType) else (annotated,))}
        if name not in options or (options[name] is None and NoneType in kinds):
            continue
        if name == "render_mode":
            check_choice(name, options[name], (None, *render_modes))
        elif bool in kinds:
            check_choice(name, options[name], (False, True))
        elif kinds & {int, float}:
            limit = (limits or {}).get(name)
            low, high = limit if isinstance(limit, tuple) else (limit, None)
            check_number(name, options[name], low, high, whole=float not in kinds)
