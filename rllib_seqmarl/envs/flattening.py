"""An observation as a vector of numbers: gymnasium's `flatten`, except that what does not fit its space is refused.

gymnasium's own writes a Discrete observation of -1 as the last choice, and drops the keys that a Dict does not have.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from gymnasium import spaces

Space = spaces.Space[Any]
Flatten = Callable[[Any], Any]


def flat_size(space: Space) -> int:
    """The number of entries of a flattened observation.

    Raises:
        ValueError: An observation of this space, or of a part of it, is no fixed number of numbers.
    """
    match space:
        case spaces.Box() if not (space.low <= space.high).all():
            raise ValueError(f"{brief(space)} needs bounds with low <= high")
        case spaces.Box() | spaces.MultiBinary():
            return int(np.prod(space.shape))
        case spaces.Discrete():
            return int(space.n)
        case spaces.MultiDiscrete():
            return int(space.nvec.sum())
        case spaces.Dict():
            return sum(map(flat_size, space.spaces.values()))
        case spaces.Tuple():
            return sum(map(flat_size, space.spaces))
    raise ValueError(f"{brief(space)} is not among Box, Discrete, MultiDiscrete, MultiBinary, Dict and Tuple")


def flattener(space: Space) -> Flatten:
    """A function that flattens observations of a space, and raises ValueError, TypeError or KeyError if they differ."""
    match space:
        case spaces.Discrete():
            one_hot = np.eye(int(space.n), dtype=np.float32)
            return partial(_flat_choice, one_hot=one_hot, start=int(space.start))
        case spaces.MultiDiscrete():
            return partial(_flat_choices, nvec=space.nvec, start=space.start)
        case spaces.MultiBinary():
            return partial(_flat_bits, shape=space.shape)
        case spaces.Dict():
            return partial(_flat_dict, parts={key: flattener(part) for key, part in space.spaces.items()})
        case spaces.Tuple():
            return partial(_flat_tuple, parts=tuple(map(flattener, space.spaces)))
    return partial(_flat_array, shape=space.shape or ())


def _flat_array(seen: Any, shape: tuple[int, ...]) -> np.ndarray:
    array = np.asarray(seen)
    if array.shape != shape:
        raise ValueError(f"it is an array of shape {array.shape}, its space {shape}")
    return array.ravel()


def _flat_bits(seen: Any, shape: tuple[int, ...]) -> np.ndarray:
    bits = _flat_array(seen, shape)
    if not np.isin(bits, (0, 1)).all():
        raise ValueError(f"{seen!r} holds other numbers than 0 and 1")
    return bits


def _flat_choice(seen: Any, one_hot: np.ndarray, start: int) -> np.ndarray:
    choice = np.asarray(seen)
    if choice.size != 1 or choice.dtype.kind not in "iu":
        raise ValueError(f"{seen!r} is not an integer")
    place = choice.item() - start
    if not 0 <= place < len(one_hot):
        raise ValueError(f"{seen!r} is not one of the {len(one_hot)} integers from {start}")
    return one_hot[place]


def _flat_choices(seen: Any, nvec: np.ndarray, start: np.ndarray) -> np.ndarray:
    choices = np.asarray(seen)
    if choices.shape != nvec.shape or choices.dtype.kind not in "iu":
        raise ValueError(f"{seen!r} is not an array of integers of shape {nvec.shape}")
    places = choices - start
    if not ((places >= 0) & (places < nvec)).all():
        raise ValueError(f"{choices.tolist()} is out of range (choices: {nvec.tolist()})")
    ends = nvec.ravel().cumsum()
    flat = np.zeros(int(ends[-1]), np.float32)
    flat[ends - nvec.ravel() + places.ravel()] = 1.0
    return flat


def _flat_dict(seen: Mapping[str, Any], parts: Mapping[str, Flatten]) -> np.ndarray:
    if seen.keys() != parts.keys():
        raise ValueError(f"it holds {', '.join(map(str, seen))}, its space {', '.join(parts)}")
    return np.concatenate([flatten(seen[key]) for key, flatten in parts.items()])


def _flat_tuple(seen: Sequence[Any], parts: Sequence[Flatten]) -> np.ndarray:
    if len(seen) != len(parts):
        raise ValueError(f"it has {len(seen)} parts, its space {len(parts)}")
    return np.concatenate([flatten(part) for flatten, part in zip(parts, seen, strict=True)])


def brief(space: Space) -> str:
    """A space in few words."""
    return f"Box{space.shape}" if isinstance(space, spaces.Box) else str(space)
