"""Flattening of observations like gymnasium's `flatten`, but rejecting those that do not fit their space.

gymnasium's version encodes a Discrete observation of -1 as the last choice and drops keys that a Dict does not have.
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
        ValueError: The space, or a part of it, cannot be flattened to a fixed size.
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
    raise ValueError(f"{brief(space)} is not one of Box, Discrete, MultiDiscrete, MultiBinary, Dict and Tuple")


def flattener(space: Space) -> Flatten:
    """Return a function that flattens observations; it raises ValueError, TypeError or KeyError if they do not fit."""
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


def _flat_array(observation: Any, shape: tuple[int, ...]) -> np.ndarray:
    array = np.asarray(observation)
    if array.shape != shape:
        raise ValueError(f"it is an array of shape {array.shape}, not {shape}")
    return array.ravel()


def _flat_bits(observation: Any, shape: tuple[int, ...]) -> np.ndarray:
    bits = _flat_array(observation, shape)
    if not np.isin(bits, (0, 1)).all():
        raise ValueError(f"{observation!r} has entries other than 0 and 1")
    return bits


def _flat_choice(observation: Any, one_hot: np.ndarray, start: int) -> np.ndarray:
    choice = np.asarray(observation)
    if choice.size != 1 or choice.dtype.kind not in "biu":
        raise ValueError(f"{observation!r} is not an integer")
    index = choice.item() - start
    if not 0 <= index < len(one_hot):
        raise ValueError(f"{observation!r} is not one of the {len(one_hot)} integers from {start}")
    return one_hot[index]


def _flat_choices(observation: Any, nvec: np.ndarray, start: np.ndarray) -> np.ndarray:
    choices = np.asarray(observation)
    if choices.shape != nvec.shape or choices.dtype.kind not in "iu":
        raise ValueError(f"{observation!r} is not an array of integers of shape {nvec.shape}")
    indices = choices - start
    if not ((indices >= 0) & (indices < nvec)).all():
        raise ValueError(f"{choices.tolist()} is out of range (choices: {nvec.tolist()})")
    ends = nvec.ravel().cumsum()
    flat = np.zeros(int(ends[-1]), np.float32)
    flat[ends - nvec.ravel() + indices.ravel()] = 1.0
    return flat


def _flat_dict(observation: Mapping[str, Any], parts: Mapping[str, Flatten]) -> np.ndarray:
    if observation.keys() != parts.keys():
        raise ValueError(f"it has the keys {', '.join(map(str, observation))}, not {', '.join(map(str, parts))}")
    return np.concatenate([flatten(observation[key]) for key, flatten in parts.items()])


def _flat_tuple(observation: Sequence[Any], parts: Sequence[Flatten]) -> np.ndarray:
    if len(observation) != len(parts):
        raise ValueError(f"it has {len(observation)} parts, not {len(parts)}")
    return np.concatenate([flatten(part) for flatten, part in zip(parts, observation, strict=True)])


def brief(space: Space) -> str:
    """A short description of a space."""
    return f"Box{space.shape}" if isinstance(space, spaces.Box) else str(space)
