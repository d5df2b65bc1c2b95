"""Checks of plain values against type annotations, and descriptions of annotations in words."""

from __future__ import annotations

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
    if kind is bool:
        return isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if kind in (list, tuple):
        return isinstance(value, list | tuple)
    if kind in (str, dict, type(None)):
        return isinstance(value, kind)
    return True


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
    """Check the keys and values of a mapping.

    Args:
        given: Plain data.
        kinds: Key -> annotation.
        where: Returns the source location of a path.
        path: The path of `given`.

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
