"""Gymnasium spaces as plain JSON values, so that a team's layout can be loaded without unpickling."""

from collections.abc import Hashable
from typing import Any

import numpy as np
from gymnasium import spaces

JSON = Any


def name_to_json(name: Hashable) -> JSON:
    """Convert an agent's name or a key of a Dict space: a string, an integer, or a tuple of these (as a list).

    Raises:
        TypeError: The name has any other type.
    """
    match name:
        case str():
            return str.__str__(name)  # of an Enum too, whose `str` is not its value
        case int() | np.integer():
            return int(name)
        case tuple():
            return [name_to_json(part) for part in name]
    raise TypeError(f"the name {name!r} is a {type(name).__name__}: use a string, an integer or a tuple of these")


def name_from_json(data: JSON) -> Hashable:
    """The inverse of :func:`name_to_json`; raises ValueError for anything else."""
    if isinstance(data, list):
        return tuple(map(name_from_json, data))
    if isinstance(data, str | int):
        return data
    raise ValueError(f"{data!r} is not a name")


def space_to_json(space: spaces.Space[Any]) -> JSON:
    """Convert a Box, Discrete, MultiDiscrete, MultiBinary, Dict or Tuple space to JSON values.

    Raises:
        TypeError: The space has any other type.
    """
    match space:
        case spaces.Box():
            low, high = _bounds(space.low), _bounds(space.high)
            return {"box": list(space.shape), "low": low, "high": high, "dtype": str(space.dtype)}
        case spaces.Discrete():
            return {"discrete": int(space.n), "start": int(space.start), "dtype": str(space.dtype)}
        case spaces.MultiDiscrete():
            start = np.asarray(space.start).tolist()
            return {"multi_discrete": space.nvec.tolist(), "start": start, "dtype": str(space.dtype)}
        case spaces.MultiBinary():
            return {"multi_binary": space.n if isinstance(space.n, int) else list(space.shape)}
        case spaces.Dict():
            return {"dict": [[name_to_json(key), space_to_json(part)] for key, part in space.spaces.items()]}
        case spaces.Tuple():
            return {"tuple": [space_to_json(part) for part in space.spaces]}
    raise TypeError(
        f"{type(space).__name__} spaces are not supported: use Box, Discrete, MultiDiscrete, MultiBinary, or a Dict or "
        f"Tuple of these"
    )


def space_from_json(data: JSON) -> spaces.Space[Any]:
    """The inverse of :func:`space_to_json`.

    Raises:
        ValueError: `data` does not describe a supported space.
    """
    match data:
        case {"box": shape, "low": low, "high": high, "dtype": dtype}:
            low, high = (np.full(shape, np.asarray(limit, np.float64), dtype) for limit in (low, high))
            return spaces.Box(low, high, dtype=np.dtype(dtype).type)
        case {"discrete": n, "start": start, "dtype": dtype}:
            return spaces.Discrete(n, start=start, dtype=np.dtype(dtype).type)
        case {"multi_discrete": nvec, "start": start, "dtype": dtype}:
            return spaces.MultiDiscrete(nvec, start=start, dtype=np.dtype(dtype).type)
        case {"multi_binary": shape}:
            return spaces.MultiBinary(shape)
        case {"dict": items}:
            parts: list[Any] = [(name_from_json(key), space_from_json(part)) for key, part in items]
            return spaces.Dict(parts)
        case {"tuple": parts}:
            return spaces.Tuple([space_from_json(part) for part in parts])
    raise ValueError(f"Not a description of a space: {data!r}")


def _bounds(limit: np.ndarray) -> JSON:
    """One value if all are equal, otherwise all; infinities become "inf" and "-inf"."""
    limit = limit.astype(np.float64)
    if limit.size and (limit == limit.flat[0]).all():
        limit = limit.flat[0]
    return _finite_json(np.asarray(limit).tolist())


def _finite_json(value: JSON) -> JSON:
    if isinstance(value, list):
        return [_finite_json(part) for part in value]
    return value if np.isfinite(value) else str(value)
