"""Checks of plain values: against type annotations, which are described in words, and of numbers against limits."""

import math
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, Union, get_args, get_origin

from rllib_seqmarl.experiments.errors import Problems
from rllib_seqmarl.suggestions import did_you_mean

Where = Callable[..., str]

_WORDS: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    list: "a list",
    tuple: "a list",
    dict: "a mapping",
    type(None): "null",
}

# The minimum of each numeric setting, and the meaning of special values.
_LEAST: dict[str, tuple[int, str]] = {
    "num_samples": (1, ", or -1 for endless sampling"),
    "max_concurrent_trials": (1, ""),
    "max_failures": (0, ", or -1 for no limit"),
    "checkpoint_freq": (0, " (0 for none during training)"),
    "checkpoint_frequency": (0, " (0 for none during training)"),
    "keep_checkpoints_num": (0, " (0 for all)"),
    "num_to_keep": (0, " (0 for all)"),
}


def _options(hint: Any) -> tuple[Any, ...]:
    """Return the members of a union, resolving nested unions; any other hint is its only member."""
    if get_origin(hint) in (Union, types.UnionType):
        return tuple(option for member in get_args(hint) for option in _options(member))
    return (type(None) if hint is None else hint,)


def fits(value: Any, hint: Any) -> bool:
    """Whether `value` is an instance of `hint`, checked one level deep; True if the hint is not for plain data."""
    return any(_fits_one(value, option) for option in _options(hint))


def _fits_one(value: Any, hint: Any) -> bool:
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    kind = get_origin(hint) or hint
    if isinstance(value, bool):  # which Python also takes for an int
        return kind not in _WORDS or kind is bool
    if kind is float:
        return isinstance(value, int | float) and math.isfinite(value)
    if kind in (list, tuple):
        return isinstance(value, list | tuple)
    return kind not in _WORDS or isinstance(value, kind)


def describe_kind(hint: Any) -> str:
    """Describe an annotation in words: "a whole number or null"."""
    words = []
    for option in _options(hint):
        if get_origin(option) is Literal:
            words += [repr(choice) for choice in get_args(option)]
        else:
            kind = get_origin(option) or option
            words.append(_WORDS.get(kind, getattr(kind, "__name__", str(kind))))
    return " or ".join(dict.fromkeys(words))


def check_mapping(given: Mapping[str, Any], kinds: Mapping[str, Any], where: Where, *path: str) -> None:
    """Check the keys and values of the mapping at `path`; `kinds` has the annotation of each key.

    Raises:
        ExperimentError: Keys are unknown or values have the wrong type. Has a line for each, with its location and the
            nearest known key or the expected type.
    """
    problems = Problems()
    for key, value in given.items():
        place = where(*path, key)
        if key not in kinds:
            near = did_you_mean(key, kinds) or f" The keys are {', '.join(kinds)}."
            inside = f" in '{path[-1]}'" if path else ""
            problems.add(f"{place}: unknown key '{key}'{inside}.{near}")
        elif not fits(value, kinds[key]):
            problems.add(f"{place}: {key} must be {describe_kind(kinds[key])}; got {format_value(value)}.")
    problems.report()


def format_value(value: Any, width: int = 100) -> str:
    """Return the repr of a value for a message, shortened to `width`."""
    text = repr(value)
    return text if len(text) <= width else f"{text[: width - 4]} ..."


def non_finite(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], float]]:
    """Yield the path and value of every NaN or infinite number in plain data."""
    if isinstance(value, float) and not math.isfinite(value):
        yield path, value
    elif isinstance(value, dict | list):
        for key, entry in value.items() if isinstance(value, dict) else enumerate(value):
            yield from non_finite(entry, (*path, key))


def check_numbers(spec: Mapping[str, Any], where: Where, *path: str) -> None:
    """Reject numbers of an experiment, or of its mapping at `path`, that are not finite or below their minimum.

    Raises:
        ExperimentError: Some numbers are invalid; has a line for each.
    """
    problems = Problems()
    for place, number in non_finite({key: value for key, value in spec.items() if key != "config"}):
        problems.add(f"{where(*path, *place)}: {place[-1]} must be a finite number; got {number}.")
    for key, (least, special) in _LEAST.items():
        value = spec.get(key)
        if isinstance(value, int) and value < least and not ("-1" in special and value == -1):
            problems.add(f"{where(*path, key)}: {key} must be at least {least}{special}; got {value}.")
    budget = spec.get("time_budget_s")
    if budget is not None and budget <= 0:
        problems.add(f"{where(*path, 'time_budget_s')}: time_budget_s must be greater than 0; got {budget}.")
    problems.report()
