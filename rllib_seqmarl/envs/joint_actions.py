"""Joint actions of a team, with one row per agent padded to the widest one, and their decoding."""

from collections.abc import Iterable
from functools import cached_property
from typing import Any

import numpy as np
from gymnasium import spaces

from rllib_seqmarl.envs.agent_spaces import AgentAction, AgentID, Space
from rllib_seqmarl.envs.errors import LayoutError


class JointActions:
    """The part of a TeamLayout that concerns actions.

    Attributes:
        agents: Names, in the order of the rows.
        action_spaces: One per agent; all discrete or all Box.
    """

    agents: tuple[AgentID, ...]
    action_spaces: tuple[Space, ...]

    @cached_property
    def _actions(self) -> tuple[AgentAction, ...]:
        return tuple(map(AgentAction.of, self.agents, self.action_spaces))

    @property
    def is_discrete(self) -> bool:
        return self._actions[0].is_discrete

    @cached_property
    def nvec(self) -> tuple[int, ...]:
        """Number of choices of each categorical component, padded to the widest agent; empty for continuous actions."""
        components = max(len(action.nvec) for action in self._actions)
        return tuple(max(nvec[c] for nvec in self._padded_nvecs(components)) for c in range(components))

    def _padded_nvecs(self, components: int) -> list[tuple[int, ...]]:
        # A component that an agent lacks has one choice without effect.
        return [action.nvec + (1,) * (components - len(action.nvec)) for action in self._actions]

    @cached_property
    def dim(self) -> int:
        """Number of dimensions of a continuous action, padded to the widest agent; 0 for discrete actions."""
        return max(action.dim for action in self._actions)

    @property
    def width(self) -> int:
        """Number of entries of a mask row: the choices of all components, or the dimensions."""
        return sum(self.nvec) or self.dim

    @cached_property
    def action_shape(self) -> tuple[int, ...]:
        """Shape of a joint action: (n,), (n, k) with several components, or (n, dim) if continuous."""
        if self.is_discrete:
            return (len(self.agents),) if len(self.nvec) == 1 else (len(self.agents), len(self.nvec))
        return (len(self.agents), self.dim)

    @cached_property
    def action_space(self) -> spaces.MultiDiscrete | spaces.Box:
        """The space of joint actions: MultiDiscrete (n,) or (n, k), or Box (n, dim), within each agent's limits."""
        if self.is_discrete:
            nvec = np.array(self._padded_nvecs(len(self.nvec)), np.int64)
            return spaces.MultiDiscrete(nvec.reshape(self.action_shape))
        return spaces.Box(self.low, self.high, dtype=np.float32)

    # -- masks and bounds ------------------------------------------------------------------------------------

    @cached_property
    def _mask_columns(self) -> tuple[np.ndarray, ...]:
        """For each agent, the columns of the joint mask with its own choices."""
        starts = np.cumsum((0, *self.nvec))
        return tuple(
            np.concatenate([start + np.arange(n) for start, n in zip(starts, action.nvec, strict=False)])
            if self.is_discrete
            else np.arange(action.dim)
            for action in self._actions
        )

    @cached_property
    def own_actions(self) -> np.ndarray:
        """The mask due to padding alone, int8 (n, width): 1 where the agent has that choice."""
        mask = np.zeros((len(self.agents), self.width), np.int8)
        for row, columns in enumerate(self._mask_columns):
            mask[row, columns] = 1
        # A component that an agent lacks keeps its first choice, so that every component has a legal one.
        for row, nvec in enumerate(self._padded_nvecs(len(self.nvec))):
            mask[row, [start for start, n in zip(self._component_starts, nvec, strict=True) if n == 1]] = 1
        return mask

    @cached_property
    def _component_starts(self) -> np.ndarray:
        return np.cumsum((0, *self.nvec))[: len(self.nvec)]

    @cached_property
    def no_choice(self) -> np.ndarray:
        """The mask of a dead agent with discrete actions, int8 (width,): each component's first choice."""
        mask = np.zeros(self.width, np.int8)
        mask[self._component_starts] = 1
        return mask

    @cached_property
    def low(self) -> np.ndarray:
        """Lowest continuous action, float32 (n, dim): -inf if unbounded; padding is -1."""
        return self._bounds(0)

    @cached_property
    def high(self) -> np.ndarray:
        """Highest continuous action, float32 (n, dim): inf if unbounded; padding is 1."""
        return self._bounds(1)

    def _bounds(self, side: int) -> np.ndarray:
        limits = np.full((len(self.agents), self.dim), (-1.0, 1.0)[side], np.float32)
        for row, action in enumerate(self._actions):
            limits[row, : action.dim] = action.bounds()[side]
        return limits

    def fit(self, actions: np.ndarray, *, normalize: bool, clip: bool) -> np.ndarray:
        """Turn network outputs (..., *action_shape) into joint actions with `fit_to_bounds`; choices are unchanged."""
        if self.is_discrete:
            return actions
        return fit_to_bounds(actions, self.low, self.high, normalize=normalize, clip=clip)

    def sample(self, rng: np.random.Generator, num_envs: int, mask: np.ndarray | None = None) -> np.ndarray:
        """Draw random legal joint actions, (num_envs, *action_shape); from -1 to 1 in unbounded dimensions.

        Args:
            rng: The source of randomness.
            num_envs: The number of teams.
            mask: Legal choices, (num_envs, n, width); None if the agents may choose anything that they have.
        """
        if not self.is_discrete:
            actions = rng.uniform(-1.0, 1.0, (num_envs, *self.action_shape)).astype(np.float32)
            return self.fit(actions, normalize=True, clip=True)
        shape = (num_envs, len(self.agents), self.width)
        legal = np.broadcast_to(self.own_actions if mask is None else mask, shape) != 0
        ranks = np.where(legal, rng.random(shape), -1.0)
        chosen = [component.argmax(axis=2) for component in np.split(ranks, self._component_starts[1:], axis=2)]
        return np.stack(chosen, axis=2).reshape(num_envs, *self.action_shape)

    # -- decoding --------------------------------------------------------------------------------------------

    @cached_property
    def _decoders(self) -> dict[AgentID, Any]:
        several = len(self.action_shape) > 1
        return {action.agent: action.decoder(row, several=several) for row, action in enumerate(self._actions)}

    def split(self, action: Any, agents: Iterable[AgentID] | None = None) -> dict[AgentID, Any]:
        """Decode each agent's action: a scalar of its space's dtype, or an array of its space's shape and dtype.

        Args:
            action: The joint action, of shape `action_shape`.
            agents: The acting agents; all if None.

        Raises:
            LayoutError: The shape or type is wrong, or an action is out of range.
        """
        action = np.asarray(action)
        self.check_actions(action[None], 1)
        return self.decode(self.rows(action), self.agents if agents is None else agents)

    def check_actions(self, actions: np.ndarray, num_envs: int) -> None:
        """Raise LayoutError unless these are joint actions of all teams, (num_envs, *action_shape)."""
        if actions.shape[:1] != (num_envs,):
            raise LayoutError(f"{num_envs} teams need {num_envs} joint actions, not an array of shape {actions.shape}.")
        if actions.shape[1:] != self.action_shape:
            raise LayoutError(f"a joint action has shape {self.action_shape}, not {actions.shape[1:]}.")
        if self.is_discrete and actions.dtype.kind not in "iu":
            raise LayoutError(f"a discrete joint action must contain integers, not {actions.dtype}.")

    def rows(self, actions: np.ndarray) -> Any:
        """Convert one or several joint actions for `decode`, which is faster with Python integers than with NumPy's."""
        return actions.tolist() if self.is_discrete else actions

    def decode(self, rows: Any, agents: Iterable[AgentID]) -> dict[AgentID, Any]:
        """Decode one team's part of the result of `rows`, like `split`, but only check the range of actions."""
        if not (self.is_discrete or ((self.low <= rows) & (rows <= self.high)).all()):
            self._check_bounds(rows, agents)
        decoders = self._decoders
        return {agent: decoders[agent](rows) for agent in agents}

    def _check_bounds(self, action: np.ndarray, agents: Iterable[AgentID]) -> None:
        outside = ~((self.low <= action) & (action <= self.high)) & self.own_actions.astype(bool)
        for agent in agents:
            row = self.agents.index(agent)
            for d in np.flatnonzero(outside[row])[:1]:
                raise LayoutError(
                    f"agent {agent!r}: action {action[row, d]} in dimension {d} is out of range "
                    f"[{self.low[row, d]}, {self.high[row, d]}]."
                )


def fit_to_bounds(actions: np.ndarray, low: np.ndarray, high: np.ndarray, *, normalize: bool, clip: bool) -> np.ndarray:
    """Fit real numbers to bounds, dimension by dimension.

    Args:
        actions: Network outputs, (..., n, dim).
        low, high: The bounds, (n, dim); infinite if unbounded.
        normalize: Whether to map -1 to 1 onto `low` to `high`, in dimensions that have both, and clip.
        clip: Whether to clip actions.
    """
    if normalize:
        bounded = np.isfinite(low) & np.isfinite(high)
        if bounded.all():
            actions = low + (actions + 1.0) * (high - low) / 2.0
        elif bounded.any():
            floor, ceiling = np.where(bounded, low, -1.0), np.where(bounded, high, 1.0)
            actions = np.where(bounded, floor + (actions + 1.0) * (ceiling - floor) / 2.0, actions)
    return np.clip(actions, low, high) if normalize or clip else actions
