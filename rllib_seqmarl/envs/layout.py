"""How one team's observations and actions lie in arrays: who sits where, what is padding, what is legal.

Every array has one row per agent. Agents that differ are padded to the widest one: observations with zeros,
actions with choices (or dimensions) that the action mask forbids. Observations are rows of float32, except where
all agents see images of one size: then they are the pixels as they are, in a quarter of the memory.
The same layout serves the environment that trains (:class:`~rllib_seqmarl.envs.joint_env.JointEnv`) and the policy
that is deployed without one.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Self

import numpy as np
from gymnasium import spaces

from rllib_seqmarl.envs.agent_spaces import (
    MASK_KEY,
    AgentID,
    AgentObservation,
    Space,
    check_joinable,
    flat_pixels,
)
from rllib_seqmarl.envs.errors import LayoutError
from rllib_seqmarl.envs.joint_actions import JointActions
from rllib_seqmarl.envs.space_json import name_from_json, name_to_json, space_from_json, space_to_json

Arrays = dict[str, np.ndarray]

OBSERVATIONS, ALIVE, ACTION_MASK, STATE = "observations", "alive", "action_mask", "state"


class JointObservationSpace(spaces.Dict):
    """A Dict of arrays that remembers its layout, so that whoever is given the space can read the arrays."""

    def __init__(self, parts: dict[str, Space], layout: "TeamLayout"):
        super().__init__(parts)
        self.layout = layout


@dataclass(frozen=True)
class TeamLayout(JointActions):
    """The places of n agents in the arrays of a joint environment.

    Attributes:
        agents: names, in the order of the rows (the order in which a sequential policy decides).
        observation_spaces: each agent's own, as the environment declares it.
        action_spaces: each agent's own; all discrete (Discrete, MultiDiscrete, MultiBinary) or all Box.
        agent_ids: whether each row of observations ends with the agent's one-hot number (n entries).
        info_masks: whether the environment puts action masks into its infos (masks that lie in Dict
            observations are known from the observation space).
        state_dim: size of the global state; 0 without one.

    Raises:
        LayoutError: there are no agents, a name appears twice, or the spaces cannot be joined.
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
        twice = sorted({repr(agent) for agent in self.agents if self.agents.count(agent) > 1})
        if twice:
            raise LayoutError(f"the agent name {twice[0]} appears twice in `possible_agents`.")
        if not len(self.agents) == len(self.observation_spaces) == len(self.action_spaces):
            raise LayoutError("give one observation space and one action space per agent.")
        check_joinable(self._actions)
        self.to_dict()  # checkpoints will hold it: an obstacle shows now, and not when the first one is written
        if self.obs_dim == 0:
            raise LayoutError("no agent observes anything: every observation has size 0. Set agent_ids=True.")

    # -- sizes -----------------------------------------------------------------------------------------------

    @property
    def n_agents(self) -> int:
        return len(self.agents)

    @cached_property
    def _observed(self) -> tuple[AgentObservation, ...]:
        return tuple(map(AgentObservation.of, self.agents, self.observation_spaces))

    @cached_property
    def obs_sizes(self) -> tuple[int, ...]:
        """Each agent's own flattened observation size, without padding and ids."""
        return tuple(observation.size for observation in self._observed)

    @cached_property
    def obs_dim(self) -> int:
        """Entries of a row of observations: the widest agent's, and n more with agent ids."""
        return max(self.obs_sizes) + (self.n_agents if self.agent_ids else 0)

    @cached_property
    def image_shape(self) -> tuple[int, int, int] | None:
        """Height, width and channels, if all agents see images of one size; otherwise None.

        Rows of observations are then uint8: the pixels, then the id. Images of several sizes, or of some agents only,
        are flattened as any other observation.
        """
        shapes = {observation.image_shape for observation in self._observed}
        return shapes.pop() if len(shapes) == 1 else None

    @property
    def _obs_dtype(self) -> Any:
        return np.uint8 if self.image_shape else np.float32

    @property
    def declares_masks(self) -> bool:
        """Whether the environment gives action masks, in observations or infos."""
        return self.info_masks or any(observation.key for observation in self._observed)

    @cached_property
    def has_action_mask(self) -> bool:
        """Whether joint observations hold a mask: the environment gives one, or actions are padded."""
        return self.declares_masks or not self.own_actions.all()

    # -- spaces ----------------------------------------------------------------------------------------------

    @cached_property
    def observation_space(self) -> "JointObservationSpace":
        """Of joint observations: `observations`, `alive`, and where there are such `action_mask`, `state`."""
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
        """Fresh arrays for joint observations, (*batch, n, ...): ids in place, all alive, nothing seen."""
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
        # What the loop of `write` needs for each agent, in one tuple: looked up once, not at every step.
        pixels = partial(flat_pixels, shape=self.image_shape) if self.image_shape else None
        return tuple(
            (seen.agent, row, (row, slice(0, seen.size)), seen.size, seen.key, pixels or seen.flatten)
            for row, seen in enumerate(self._observed)
        )

    def observe(
        self,
        observations: Mapping[AgentID, Any],
        masks: Mapping[AgentID, Any] | None = None,
        state: Any = None,
        *,
        last: bool = False,
    ) -> Arrays:
        """The joint observation of one team; see :meth:`write` for arguments and errors."""
        arrays = self.blank()
        self.write(arrays, observations, masks, state, last=last)
        return arrays

    def write(
        self,
        arrays: Arrays,
        observations: Mapping[AgentID, Any],
        masks: Mapping[AgentID, Any] | None = None,
        state: Any = None,
        *,
        last: bool = False,
    ) -> None:
        """Writes one team's observations into `arrays`, as :meth:`blank` makes them.

        Args:
            arrays: what to fill; `observations` (n, obs_dim) etc., without batch axes.
            observations: what each living agent sees. Who is absent is dead: it sees zeros, and only its
                first choice is legal.
            masks: legal actions of each living agent, for environments that put masks into infos.
            state: the global state, if `state_dim` is set.
            last: the episode is over, nobody will act: masks may be absent and may forbid everything.

        Raises:
            LayoutError: an observation of the wrong size or not finite, a mask that is absent or forbids
                every action, a state of another size.
        """
        table = arrays[OBSERVATIONS]
        for agent, row, place, size, key, flatten in self._readers:
            if agent not in observations:
                arrays[ALIVE][row] = 0
                if self.has_action_mask and self.is_discrete:
                    arrays[ACTION_MASK][row] = self.no_choice
                continue
            seen = observations[agent]
            try:
                if key is not None:
                    seen = seen[key]
                if flatten is not None:
                    seen = flatten(seen)
                if len(seen) != size:
                    raise ValueError(f"it has {len(seen)} entries, its space {size}")
                table[place] = seen
            except (ValueError, TypeError, KeyError, IndexError, AssertionError) as error:
                raise LayoutError(f"agent {agent!r}: its observation does not fit its space: {error}.") from error
        if not self.image_shape:
            flat = table.ravel()
            # A dot product is the quickest test; as it may overflow, the exact test has the last word.
            if not math.isfinite(flat.dot(flat)):
                self._check_finite(table)
        if self.declares_masks:
            self._write_masks(arrays[ACTION_MASK], observations, masks or {}, last)
        if self.state_dim:
            self._write_state(arrays[STATE], state)

    def _check_finite(self, table: np.ndarray) -> None:
        for agent, row in zip(self.agents, table, strict=True):
            bad = np.flatnonzero(~np.isfinite(row))
            if bad.size:
                raise LayoutError(f"agent {agent!r}: its observation is {row[bad[0]]} at entry {bad[0]}.")

    def _write_masks(
        self, table: np.ndarray, observations: Mapping[AgentID, Any], masks: Mapping[AgentID, Any], last: bool
    ) -> None:
        for observed, action, row, places in zip(self._observed, self._actions, table, self._mask_places, strict=True):
            agent = action.agent
            if agent not in observations:
                continue
            mask = observations[agent].get(MASK_KEY) if observed.key else masks.get(agent)
            if mask is None:
                if last or not (observed.key or self.info_masks):
                    continue
                raise LayoutError(
                    f"agent {agent!r} has no action mask this time. Once an environment gives masks, every "
                    "living agent needs one at every step (all ones where everything is legal)."
                )
            if isinstance(mask, tuple):  # gymnasium's form for MultiDiscrete: one array a component
                mask = np.concatenate(mask)
            if len(mask) != action.width:
                raise LayoutError(f"agent {agent!r}: its action mask has {len(mask)} entries, not {action.width}.")
            row[places] = mask
        if self.is_discrete and not last:
            action_mask = np.logical_or.reduceat(table, self._component_starts, axis=1)  # (n, components)
            if not action_mask.all():
                agent = self.agents[int(np.argmin(action_mask.all(axis=1)))]
                raise LayoutError(
                    f"agent {agent!r}: its action mask forbids every action. "
                    "Leave a living agent at least one legal choice, such as a no-op."
                )

    def _write_state(self, table: np.ndarray, state: Any) -> None:
        flat = np.ravel(state)
        if flat.size != self.state_dim:
            raise LayoutError(f"the global state has {flat.size} entries; it had {self.state_dim} at first.")
        table[:] = flat
        if not np.isfinite(table).all():
            raise LayoutError("the global state is not finite.")

    # -- JSON ------------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """This layout as JSON values.

        Raises:
            LayoutError: An agent's name or one of its spaces has no form in JSON.
        """
        return {
            "agents": [self._to_json(name_to_json, agent, agent) for agent in self.agents],
            "observation_spaces": list(
                map(partial(self._to_json, space_to_json), self.agents, self.observation_spaces)
            ),
            "action_spaces": list(map(partial(self._to_json, space_to_json), self.agents, self.action_spaces)),
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
        """The inverse of :meth:`to_dict`; ValueError or LookupError where `data` has another form."""
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
        # Copies and pickles rebuild what is derived, and do not carry functions about.
        fields = (self.agents, self.observation_spaces, self.action_spaces)
        return type(self), (*fields, self.agent_ids, self.info_masks, self.state_dim)
