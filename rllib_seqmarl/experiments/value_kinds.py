"""Whether plain values fit type annotations, and how to say in words what would."""

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
    """A union's members, aliases followed; any other hint is its own only member."""
    if get_origin(hint) in (Union, types.UnionType):
        return tuple(option for member in get_args(hint) for option in _options(member))
    return (type(None) if hint is None else hint,)


def fits(value: Any, hint: Any) -> bool:
    """Whether `value` may stand for `hint`, one level deep; True where the hint is no plain data's."""
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


def kind_of(hint: Any) -> str:
    """The annotation in words: "a whole number or null"."""
    words = []
    for option in _options(hint):
        if get_origin(option) is Literal:
            words += [repr(choice) for choice in get_args(option)]
        else:
            kind = get_origin(option) or option
            words.append(_WORDS.get(kind, getattr(kind, "__name__", str(kind))))
    return " or ".join(dict.fromkeys(words))


def check_mapping(given: Mapping[str, Any], kinds: Mapping[str, Any], where: Where, *path: str) -> None:
    """Refuses keys that `kinds` does not have, and values that do not fit it.

    Args:
        given: Plain data.
        kinds: Key -> annotation.
        where: Tells where a path was written.
        path: Where `given` stands.

    Raises:
        ExperimentError: With the place, the key, and the nearest known one or what its value must be; a line for
            each of them.
    """
    problems = Problems()
    for key, value in given.items():
        place = where(*path, key)
        if key not in kinds:
            near = did_you_mean(key, kinds) or f" The keys are {', '.join(kinds)}."
            inside = f" in '{path[-1]}'" if path else ""
            problems.add(f"{place}: key '{key}' unknown{inside}.{near}")
        elif not fits(value, kinds[key]):
            problems.add(f"{place}: {key} must be {kind_of(kinds[key])}; got {shown(value)}.")
    problems.report()


def shown(value: Any, width: int = 100) -> str:
    """A value as a message shows it: on one line, and cut where it is long."""
    text = repr(value)
    return text if len(text) <= width else f"{text[: width - 4]} ..."


def non_finite(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], float]]:
    """The places of all numbers in plain data that are NaN or infinite, with the numbers."""
    if isinstance(value, float) and not math.isfinite(value):
        yield path, value
    elif isinstance(value, dict | list):
        for key, entry in value.items() if isinstance(value, dict) else enumerate(value):
            yield from non_finite(entry, (*path, key))
