"""The layout of a team's observations and actions in arrays: rows, padding and legal actions.

Every array has one row per agent. Agents are padded to the widest one: observations with zeros, actions with choices
(or dimensions) that the action mask forbids. Observations are float32, except if all agents observe images of one
size: then they are uint8 pixels, which take a quarter of the memory. Training environments
(:class:`~rllib_seqmarl.envs.joint_env.JointEnv`) and deployed policies share the same layout.
"""

import math
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import cached_property, partial
from typing import Any, Self

import numpy as np
from gymnasium import spaces

from rllib_seqmarl.envs.agent_spaces import MASK_KEY, AgentID, AgentObservation, Space, check_joinable, flat_pixels
from rllib_seqmarl.envs.errors import LayoutError
from rllib_seqmarl.envs.flattening import brief
from rllib_seqmarl.envs.joint_actions import JointActions
from rllib_seqmarl.envs.space_json import name_from_json, name_to_json, space_from_json, space_to_json

Arrays = dict[str, np.ndarray]

OBSERVATIONS, ALIVE, ACTION_MASK, STATE = "observations", "alive", "action_mask", "state"


def missing_mask(agent: AgentID) -> LayoutError:
    """The error for a missing action mask."""
    return LayoutError(
        f"agent {agent!r} has no action mask at this step. Once an agent has had a mask, it needs one at every step "
        "while it is alive (all ones if everything is legal)."
    )


def _flat_mask(mask: Any) -> np.ndarray:
    """Convert a mask to an array; gymnasium's format for several components is a (nested) tuple of arrays."""
    if isinstance(mask, tuple) and mask:
        return np.concatenate([np.atleast_1d(_flat_mask(part)) for part in mask])
    return np.asarray(mask)


class JointObservationSpace(spaces.Dict):
    """A Dict space with its layout, so that arrays can be interpreted from the space alone."""

    def __init__(self, parts: dict[str, Space], layout: "TeamLayout"):
        super().__init__(parts)
        self.layout = layout


@dataclass(frozen=True)
class TeamLayout(JointActions):
    """The layout of n agents in the arrays of a joint environment.

    Attributes:
        agents: Names, in the order of the rows.
        observation_spaces: One per agent, as declared by the environment.
        action_spaces: One per agent; all discrete (Discrete, MultiDiscrete, MultiBinary) or all Box.
        agent_ids: Whether each row of observations ends with the agent's one-hot index (n entries).
        info_masks: Whether the environment puts action masks into its infos (masks in Dict observations are inferred
            from the observation space).
        state_dim: Size of the global state; 0 if there is none.

    Raises:
        LayoutError: There are no agents, a name is duplicated, or the spaces cannot be joined.
    """

    agents: tuple[AgentID, ...]
    observation_spaces: tuple[Space, ...]
    action_spaces: tuple[Space, ...]
    agent_ids: bool = True
    info_masks: bool = False
    state_dim: int = 0

    def __post_init__(self) -> None:
        if not self.agents:
            raise LayoutError("there are no agents. Declare at least one in `possible_agents` (one agent is a team).")
        duplicates = sorted({repr(agent) for agent in self.agents if self.agents.count(agent) > 1})
        if duplicates:
            raise LayoutError(f"the agent name {duplicates[0]} appears twice in `possible_agents`.")
        if not len(self.agents) == len(self.observation_spaces) == len(self.action_spaces):
            raise LayoutError("there must be one observation space and one action space per agent.")
        check_joinable(self._actions)
        self.to_dict()  # fail now rather than when the first checkpoint is written
        if self.obs_dim == 0:
            raise LayoutError("every observation has size 0. Set agent_ids=True.")

    # -- sizes -----------------------------------------------------------------------------------------------

    @property
    def n_agents(self) -> int:
        return len(self.agents)

    @cached_property
    def observed(self) -> tuple[AgentObservation, ...]:
        return tuple(map(AgentObservation.of, self.agents, self.observation_spaces))

    @cached_property
    def obs_sizes(self) -> tuple[int, ...]:
        """Each agent's flattened observation size, without padding and IDs."""
        return tuple(observation.size for observation in self.observed)

    @cached_property
    def obs_dim(self) -> int:
        """Number of entries of an observation row: the widest agent's, plus n with agent IDs."""
        return max(self.obs_sizes) + (self.n_agents if self.agent_ids else 0)

    @cached_property
    def image_shape(self) -> tuple[int, int, int] | None:
        """Height, width and channels, if all agents observe images of one size; otherwise None.

        Observation rows are then uint8: the pixels, then the ID. Images of several sizes, or of some agents only, are
        flattened like any other observation.
        """
        shapes = {observation.image_shape for observation in self.observed}
        return shapes.pop() if len(shapes) == 1 else None

    @property
    def _obs_dtype(self) -> Any:
        return np.uint8 if self.image_shape else np.float32

    @cached_property
    def declares_masks(self) -> bool:
        """Whether the environment provides action masks, in observations or infos."""
        return self.info_masks or any(observation.has_mask for observation in self.observed)

    @cached_property
    def has_action_mask(self) -> bool:
        """Whether joint observations contain a mask: the environment provides one, or actions are padded."""
        return self.declares_masks or not self.own_actions.all()

    # -- spaces ----------------------------------------------------------------------------------------------

    @cached_property
    def observation_space(self) -> "JointObservationSpace":
        """The space of joint observations: `observations`, `alive` and, if available, `action_mask` and `state`."""
        n = self.n_agents
        low, high = (0, 255) if self.image_shape else (-np.inf, np.inf)
        parts: dict[str, Space] = {
            OBSERVATIONS: spaces.Box(low, high, (n, self.obs_dim), self._obs_dtype),
            ALIVE: spaces.MultiBinary(n),
        }
        if self.has_action_mask:
            parts[ACTION_MASK] = spaces.MultiBinary((n, self.width))
        if self.state_dim:
            parts[STATE] = spaces.Box(-np.inf, np.inf, (self.state_dim,), np.float32)
        return JointObservationSpace(parts, self)

    # -- joint observations ----------------------------------------------------------------------------------

    def blank(self, *batch: int) -> Arrays:
        """Create arrays for joint observations, (*batch, n, ...): IDs set, all agents alive, observations zero."""
        if not batch:
            return {name: array.copy() for name, array in self._blank.items()}
        return {name: np.tile(array, (*batch, *[1] * array.ndim)) for name, array in self._blank.items()}

    @cached_property
    def _blank(self) -> Arrays:
        n = self.n_agents
        observations = np.zeros((n, self.obs_dim), self._obs_dtype)
        if self.agent_ids:
            observations[:, -n:] = np.eye(n)
        arrays: Arrays = {OBSERVATIONS: observations, ALIVE: np.ones(n, np.int8)}
        if self.has_action_mask:
            arrays[ACTION_MASK] = self.own_actions
        if self.state_dim:
            arrays[STATE] = np.zeros(self.state_dim, np.float32)
        return arrays

    @cached_property
    def _readers(self) -> tuple[tuple[Any, ...], ...]:
        # What the loop in `place` needs per agent, prepared once for speed.
        pixels = partial(flat_pixels, shape=self.image_shape) if self.image_shape else None
        return tuple(
            (own.agent, row, (row, slice(0, own.size)), own.size, own.key, pixels or own.flatten)
            for row, own in enumerate(self.observed)
        )

    def observe(
        self,
        observations: Mapping[AgentID, Any],
        masks: Mapping[AgentID, Any] | None = None,
        state: Any = None,
        *,
        last: bool = False,
    ) -> Arrays:
        """Build the joint observation of one team.

        Args:
            observations: The observations of living agents. Absent agents are dead: they observe zeros, and only their
                first choice is legal.
            masks: The action masks of living agents, for environments that put masks into infos.
            state: The global state, if `state_dim` is set.
            last: Whether the episode is over, so that masks may be absent or forbid everything.

        Raises:
            LayoutError: As in `place` and `finish`; or all masks are missing.
        """
        if self.info_masks and observations and not (masks or last):
            raise missing_mask(next(iter(observations)))
        arrays = self.blank()
        self.place(arrays, observations, masks, state, last=last)
        self.finish(arrays, last)
        return arrays

    def place(
        self,
        arrays: Arrays,
        observations: Mapping[AgentID, Any],
        masks: Mapping[AgentID, Any] | None = None,
        state: Any = None,
        *,
        last: bool = False,
    ) -> None:
        """Write one team's observations into blank arrays, (n, ...), for completion by `finish`.

        Args:
            arrays: The arrays of one team, as `blank` returns them.
            observations, masks, state, last: As in `observe`. A living agent without a mask may choose anything.

        Raises:
            LayoutError: An observation, mask or state does not fit its space or size.
        """
        table = arrays[OBSERVATIONS]
        for agent, row, target, size, key, flatten in self._readers:
            if agent not in observations:
                arrays[ALIVE][row] = 0
                continue
            observation = observations[agent]
            try:
                if key is not None:
                    if len(observation) > 2:
                        keys = ", ".join(map(str, observation))
                        raise ValueError(f"it has the keys {keys}, not {key}, {MASK_KEY}")
                    observation = observation[key]
                if flatten is not None:
                    observation = flatten(observation)
                if len(observation) != size:
                    raise ValueError(f"it has {len(observation)} entries, not {size}")
                table[target] = observation
            except ValueError as error:
                raise LayoutError(f"agent {agent!r}: its observation does not fit its space: {error}.") from error
            except (TypeError, KeyError, IndexError, AttributeError) as error:
                raise LayoutError(
                    f"agent {agent!r}: its observation does not fit its space {brief(self.observation_spaces[row])}: "
                    f"it is {reprlib.repr(observations[agent])}."
                ) from error
        if self.declares_masks:
            self._place_masks(arrays[ACTION_MASK], observations, masks or {}, last)
        if self.state_dim:
            self._place_state(arrays[STATE], state)

    def _place_masks(
        self, table: np.ndarray, observations: Mapping[AgentID, Any], masks: Mapping[AgentID, Any], last: bool
    ) -> None:
        for observed, action, row, columns in zip(self.observed, self._actions, table, self._mask_columns, strict=True):
            agent = action.agent
            if agent not in observations:
                continue
            mask = observations[agent].get(MASK_KEY) if observed.has_mask else masks.get(agent)
            if mask is None:
                if observed.has_mask and not last:
                    raise missing_mask(agent)
                continue
            try:
                mask = _flat_mask(mask)
            except ValueError:  # lists of several lengths
                raise LayoutError(f"agent {agent!r}: its action mask is {reprlib.repr(mask)}, not an array.") from None
            if mask.shape != (action.width,):
                found = f"{len(mask)} entries" if mask.ndim == 1 else f"shape {mask.shape}"
                raise LayoutError(f"agent {agent!r}: its action mask has {found}, not {action.width}.")
            if mask.dtype.char not in "b?" and not np.isin(mask, (0, 1)).all():
                raise LayoutError(f"agent {agent!r}: its action mask has entries other than 0 and 1: {mask.tolist()}.")
            row[columns] = mask

    def _place_state(self, table: np.ndarray, state: Any) -> None:
        try:
            flat = np.ravel(state).astype(np.float32)
        except (ValueError, TypeError) as error:
            raise LayoutError(f"the global state is not an array of numbers: {error}.") from None
        if flat.size != self.state_dim:
            raise LayoutError(f"the global state has {flat.size} entries; expected {self.state_dim}.")
        table[:] = flat

    def finish(self, arrays: Arrays, last: Any = False) -> None:
        """Complete joint observations of one team or many, (..., n, ...), and check their values and masks.

        Args:
            arrays: Arrays with observations, alive, the state and the masks of living agents already set.
            last: Whether the episode is over, so that masks may forbid everything; a bool or bool (...,).

        Raises:
            LayoutError: A value is not finite, or a mask forbids every action.
        """
        alive = arrays[ALIVE]
        if not self.image_shape:
            flat = arrays[OBSERVATIONS].ravel()
            # A dot product is the fastest test; since it may overflow, the exact test confirms a failure.
            if not math.isfinite(flat.dot(flat)):
                self._check_finite(arrays[OBSERVATIONS])
        if self.state_dim and not np.isfinite(arrays[STATE]).all():
            raise LayoutError("the global state is not finite.", np.argwhere(~np.isfinite(arrays[STATE]))[0][:-1])
        if self.has_action_mask and self.is_discrete:
            mask = arrays[ACTION_MASK]  # (..., n, width)
            if not alive.all():
                mask[alive == 0] = self.no_choice
            if self.declares_masks:
                if len(self.nvec) == 1:
                    legal = mask.any(axis=-1)  # (..., n)
                else:
                    legal = np.logical_or.reduceat(mask, self._component_starts, axis=-1).all(axis=-1)
                if not legal.all():
                    self._check_legal(legal | np.asarray(last)[..., None])

    def _check_finite(self, table: np.ndarray) -> None:
        for *team, row, entry in np.argwhere(~np.isfinite(table)):
            value = table[(*team, row, entry)]
            raise LayoutError(f"agent {self.agents[row]!r}: its observation is {value} at entry {entry}.", team)

    def _check_legal(self, legal: np.ndarray) -> None:
        for *team, row in np.argwhere(~legal):
            raise LayoutError(
                f"agent {self.agents[row]!r}: its action mask forbids every action. "
                "Leave a living agent at least one legal choice, such as a no-op.",
                team,
            )

    # -- JSON ------------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Return this layout as JSON values.

        Raises:
            LayoutError: An agent's name or one of its spaces cannot be represented in JSON.
        """
        convert = partial(self._to_json, space_to_json)
        return {
            "agents": [self._to_json(name_to_json, agent, agent) for agent in self.agents],
            "observation_spaces": list(map(convert, self.agents, self.observation_spaces)),
            "action_spaces": list(map(convert, self.agents, self.action_spaces)),
            "agent_ids": self.agent_ids,
            "info_masks": self.info_masks,
            "state_dim": self.state_dim,
        }

    @staticmethod
    def _to_json(convert: Callable[[Any], Any], agent: AgentID, value: Any) -> Any:
        try:
            return convert(value)
        except TypeError as error:
            raise LayoutError(f"agent {agent!r}: {error}.") from None

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of :meth:`to_dict`; raises ValueError or LookupError if `data` is malformed."""
        for key, kind in (("agent_ids", bool), ("info_masks", bool), ("state_dim", int)):
            if not isinstance(data[key], kind):
                raise ValueError(f"{key} is {data[key]!r}, not a {kind.__name__}")
        return cls(
            agents=tuple(map(name_from_json, data["agents"])),
            observation_spaces=tuple(map(space_from_json, data["observation_spaces"])),
            action_spaces=tuple(map(space_from_json, data["action_spaces"])),
            agent_ids=data["agent_ids"],
            info_masks=data["info_masks"],
            state_dim=data["state_dim"],
        )

    def __reduce__(self) -> tuple[Any, ...]:
        # Copies and pickles rebuild cached properties instead of carrying functions.
        return type(self), tuple(getattr(self, field.name) for field in fields(self))
