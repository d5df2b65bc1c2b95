"""One agent's spaces: flattening its observation and decoding its action from a joint action."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from gymnasium import spaces

from rllib_seqmarl.envs.errors import LayoutError
from rllib_seqmarl.envs.flattening import Flatten, Space, brief, flat_size, flattener

AgentID = Hashable

MASK_KEY = "action_mask"
TASK_KEY = "task"  # in infos: the name of the current task, in environments with several
ALIVE_KEY = "alive"  # in infos: False for a dead agent that stays and shares the team's reward
NO_BOUND = 1e30  # Larger bounds of continuous actions count as infinite; the largest float32 is 3.4e38.
SMALLEST_IMAGE = 16  # Anything smaller in height or width is treated as a grid of numbers.


@dataclass(frozen=True)
class AgentObservation:
    """How to read one agent's observation.

    Attributes:
        agent: The agent's name.
        size: Number of entries of the flattened observation.
        flatten: Turns an observation into a vector of `size` entries; None if it already is one.
        key: Key of the observation, if the agent observes a Dict of its action mask and one other part.
        has_mask: Whether the agent observes a Dict with its action mask.
        image_shape: Height, width and channels, if the agent observes an image: a Box of uint8 with three axes, at
            least 16 pixels high and wide.
    """

    agent: AgentID
    size: int
    flatten: Flatten | None
    key: str | None = None
    has_mask: bool = False
    image_shape: tuple[int, int, int] | None = None

    @classmethod
    def of(cls, agent: AgentID, space: Space) -> "AgentObservation":
        has_mask = isinstance(space, spaces.Dict) and MASK_KEY in space.spaces
        if not has_mask:
            return cls(agent, _size(agent, space), _flattener(space), image_shape=_image_shape(space))
        assert isinstance(space, spaces.Dict)
        parts = {key: part for key, part in space.spaces.items() if key != MASK_KEY}
        if not parts:
            raise LayoutError(f"agent {agent!r} observes only its {MASK_KEY}. Add a part 'observations'.")
        if len(parts) > 1:
            whole = spaces.Dict(list(parts.items()))
            return cls(agent, _size(agent, whole), partial(_flat_without_mask, flatten=flattener(whole)), has_mask=True)
        ((key, only),) = parts.items()
        return cls(agent, _size(agent, only), _flattener(only), key, True, _image_shape(only))


def _size(agent: AgentID, space: Space) -> int:
    try:
        return flat_size(space)
    except ValueError as error:
        raise LayoutError(
            f"agent {agent!r}: observations of {brief(space)} cannot be flattened to a fixed size: {error}."
        ) from None


def _flattener(space: Space) -> Flatten | None:
    return None if isinstance(space, spaces.Box) and len(space.shape) == 1 else flattener(space)


def _flat_without_mask(observation: Mapping[str, Any], flatten: Flatten) -> Any:
    return flatten({key: part for key, part in observation.items() if key != MASK_KEY})


def check_channels(agent: AgentID, space: Space) -> None:
    """Raise LayoutError if the agent observes images (channels, height, width), alone or with a mask.

    They would be flattened. Exported policies that were trained on such observations still load.
    """
    key = AgentObservation.of(agent, space).key
    part: Any = space if key is None else space[key]  # type: ignore[index]
    if _has_pixels(part):
        channels, height, width = part.shape
        # The first axis is too short for an image: it contains the channels, such as stacked frames.
        if channels < SMALLEST_IMAGE <= min(height, width) and (part.high == 255).all():
            raise LayoutError(
                f"agent {agent!r} observes images of shape {part.shape}, channels first. Put the channels last: "
                "(height, width, channels), for example with np.moveaxis(image, 0, -1)."
            )


def _has_pixels(space: Space) -> bool:
    return isinstance(space, spaces.Box) and space.dtype == np.uint8 and len(space.shape) == 3


def _image_shape(space: Space) -> tuple[int, int, int] | None:
    if not _has_pixels(space):
        return None
    height, width, channels = space.shape  # type: ignore[misc]
    return (height, width, channels) if min(height, width) >= SMALLEST_IMAGE else None


def flat_pixels(image: Any, shape: tuple[int, int, int]) -> np.ndarray:
    """Flatten an image to a vector of pixels.

    Raises:
        ValueError: The image's shape differs from its space's, or it is not uint8, so values would be truncated.
    """
    image = np.asarray(image)
    if image.shape != shape or image.dtype != np.uint8:
        raise ValueError(f"it is an array of {image.dtype} {image.shape}, its space of uint8 {shape}")
    return image.ravel()


@dataclass(frozen=True)
class AgentAction:
    """The actions of one agent: either categorical components (`nvec`) or continuous dimensions (`dim`).

    Attributes:
        agent: The agent's name.
        space: Its action space as declared by the environment.
        nvec: Number of choices of each categorical component; empty for continuous actions.
        dim: Number of continuous dimensions; 0 for discrete actions.
    """

    agent: AgentID
    space: Space
    nvec: tuple[int, ...] = ()
    dim: int = 0

    @classmethod
    def of(cls, agent: AgentID, space: Space) -> "AgentAction":
        match space:
            case spaces.Discrete():
                return cls(agent, space, nvec=(int(space.n),))
            case spaces.MultiDiscrete():
                return cls(agent, space, nvec=tuple(space.nvec.ravel().tolist()))
            case spaces.MultiBinary():
                return cls(agent, space, nvec=(2,) * int(np.prod(space.shape)))
            case spaces.Box() if np.issubdtype(space.dtype, np.floating) and np.prod(space.shape):
                if not (space.low <= space.high).all():
                    raise LayoutError(f"agent {agent!r} acts in {space}: its bounds need low <= high.")
                return cls(agent, space, dim=int(np.prod(space.shape)))
        raise LayoutError(
            f"agent {agent!r} acts in {brief(space)}: a joint policy needs Discrete, MultiDiscrete, "
            "MultiBinary or a non-empty floating-point Box. Wrap the environment so that the agent's action space is "
            "one of these."
        )

    @property
    def is_discrete(self) -> bool:
        return self.dim == 0

    @property
    def width(self) -> int:
        """Number of entries of this agent's action mask."""
        return sum(self.nvec) or self.dim

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest action, each float32 (dim,), rounded inwards so that everything between them is legal.

        Bounds of at least `NO_BOUND`, or equal to the dtype's largest number, are returned as infinite.
        """
        assert isinstance(self.space, spaces.Box)
        low, high = self.space.low.ravel(), self.space.high.ravel()
        limit = min(NO_BOUND, float(np.finfo(low.dtype).max))
        with np.errstate(over="ignore"):
            low32, high32 = low.astype(np.float32), high.astype(np.float32)
        low32 = np.where(low32 < low, np.nextafter(low32, np.float32(np.inf)), low32)
        high32 = np.where(high32 > high, np.nextafter(high32, np.float32(-np.inf)), high32)
        infinity = np.float32(np.inf)
        return np.where(low <= -limit, -infinity, low32), np.where(high >= limit, infinity, high32)

    def decoder(self, row: int, *, several: bool) -> Callable[[Any], Any]:
        """Return a function that decodes this agent's action, in its own space, from the rows of a joint action.

        Args:
            row: The agent's row.
            several: Whether each row of a discrete team is a list of components rather than one integer.
        """
        space = self.space
        if isinstance(space, spaces.Box):
            return lambda rows: rows[row, : self.dim].astype(space.dtype).reshape(space.shape)
        if isinstance(space, spaces.Discrete):
            return _choice_decoder(self, row, int(space.start), several)
        return _components_decoder(self, row, several)


def _choice_decoder(action: AgentAction, row: int, start: int, several: bool) -> Callable[[Any], Any]:
    (n,) = action.nvec
    assert action.space.dtype is not None
    dtype = action.space.dtype.type  # as `space.sample()` returns

    def decode(rows: list[Any]) -> Any:
        choice = rows[row][0] if several else rows[row]
        if 0 <= choice < n:
            return dtype(choice + start)
        raise _out_of_range(action, choice)

    return decode


def _components_decoder(action: AgentAction, row: int, several: bool) -> Callable[[Any], np.ndarray]:
    space, count, limits = action.space, len(action.nvec), action.nvec
    start = np.asarray(getattr(space, "start", 0), space.dtype)

    def decode(rows: list[Any]) -> np.ndarray:
        choices = rows[row][:count] if several else [rows[row]]
        if all(0 <= choice < n for choice, n in zip(choices, limits, strict=True)):
            return np.array(choices, dtype=space.dtype).reshape(space.shape) + start
        raise _out_of_range(action, choices)

    return decode


def _out_of_range(action: AgentAction, choice: int | list[int]) -> LayoutError:
    limits = action.nvec[0] if isinstance(choice, int) else list(action.nvec)
    return LayoutError(f"agent {action.agent!r}: action {choice} is out of range (choices: {limits}, from 0).")


def check_joinable(actions: Sequence[AgentAction]) -> None:
    """Raise LayoutError, naming the agents, unless all action spaces are discrete or all are continuous."""
    discrete = [action for action in actions if action.is_discrete]
    continuous = [action for action in actions if not action.is_discrete]
    if discrete and continuous:
        raise LayoutError(
            f"the action spaces cannot be joined: {_agents_and_space(discrete)} but "
            f"{_agents_and_space(continuous)}. Wrap the environment so that all action spaces are discrete (bin each "
            "Box into a MultiDiscrete) or all are Boxes."
        )


def _agents_and_space(actions: Sequence[AgentAction]) -> str:
    names = ", ".join(repr(action.agent) for action in actions[:4]) + (", ..." if len(actions) > 4 else "")
    return f"{names} act{'s' if len(actions) == 1 else ''} in {brief(actions[0].space)}"
