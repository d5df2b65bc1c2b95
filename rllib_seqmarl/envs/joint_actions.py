"""The joint action of a team: one row per agent, padded to the widest one, and each agent's part of it."""

from collections.abc import Iterable
from functools import cached_property
from typing import Any

import numpy as np
from gymnasium import spaces

from rllib_seqmarl.envs.agent_spaces import AgentAction, AgentID, Space
from rllib_seqmarl.envs.errors import LayoutError


class JointActions:
    """The half of a TeamLayout that is about actions.

    Attributes:
        agents: Names, in the order of the rows.
        action_spaces: Each agent's own; all discrete or all Box.
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
        """Choices of each categorical component, padded to the widest agent; empty for continuous actions."""
        components = max(len(action.nvec) for action in self._actions)
        return tuple(max(nvec[c] for nvec in self._padded_nvecs(components)) for c in range(components))

    def _padded_nvecs(self, components: int) -> list[tuple[int, ...]]:
        # A component an agent lacks has one choice, which does nothing.
        return [action.nvec + (1,) * (components - len(action.nvec)) for action in self._actions]

    @cached_property
    def dim(self) -> int:
        """Dimensions of a continuous action, padded to the widest agent; 0 for discrete actions."""
        return max(action.dim for action in self._actions)

    @property
    def width(self) -> int:
        """Entries of a row of the action mask: all choices of all components, or the dimensions."""
        return sum(self.nvec) or self.dim

    @cached_property
    def action_shape(self) -> tuple[int, ...]:
        """Shape of a joint action: (n,) or, with several components, (n, k); continuous: (n, dim)."""
        if self.is_discrete:
            return (len(self.agents),) if len(self.nvec) == 1 else (len(self.agents), len(self.nvec))
        return (len(self.agents), self.dim)

    @cached_property
    def action_space(self) -> spaces.MultiDiscrete | spaces.Box:
        """Of joint actions: MultiDiscrete (n,) or (n, k), or Box (n, dim), within each agent's own limits."""
        if self.is_discrete:
            nvec = np.array(self._padded_nvecs(len(self.nvec)), np.int64)
            return spaces.MultiDiscrete(nvec.reshape(self.action_shape))
        return spaces.Box(self.low, self.high, dtype=np.float32)

    # -- masks and bounds ------------------------------------------------------------------------------------

    @cached_property
    def _mask_places(self) -> tuple[np.ndarray, ...]:
        """For each agent, the columns of the joint mask that hold its own choices."""
        starts = np.cumsum((0, *self.nvec))
        return tuple(
            np.concatenate([start + np.arange(n) for start, n in zip(starts, action.nvec, strict=False)])
            if self.is_discrete
            else np.arange(action.dim)
            for action in self._actions
        )

    @cached_property
    def own_actions(self) -> np.ndarray:
        """The mask that padding alone imposes, int8 (n, width): 1 where the agent has that choice."""
        mask = np.zeros((len(self.agents), self.width), np.int8)
        for row, places in enumerate(self._mask_places):
            mask[row, places] = 1
        # A component an agent lacks keeps its first choice, so that every component has a legal one.
        for row, nvec in enumerate(self._padded_nvecs(len(self.nvec))):
            mask[row, [start for start, n in zip(self._component_starts, nvec, strict=True) if n == 1]] = 1
        return mask

    @cached_property
    def _component_starts(self) -> np.ndarray:
        return np.cumsum((0, *self.nvec))[: len(self.nvec)]

    @cached_property
    def no_choice(self) -> np.ndarray:
        """The mask of a dead agent that acts discretely, int8 (width,): each component's first choice."""
        mask = np.zeros(self.width, np.int8)
        mask[self._component_starts] = 1
        return mask

    @cached_property
    def low(self) -> np.ndarray:
        """Lowest continuous action, float32 of shape (n, dim): -inf where there is no bound; padding -1."""
        return self._bounds(0)

    @cached_property
    def high(self) -> np.ndarray:
        """Highest continuous action, float32 of shape (n, dim): inf where there is no bound; padding 1."""
        return self._bounds(1)

    def _bounds(self, side: int) -> np.ndarray:
        limits = np.full((len(self.agents), self.dim), (-1.0, 1.0)[side], np.float32)
        for row, action in enumerate(self._actions):
            limits[row, : action.dim] = action.bounds()[side]
        return limits

    def fit(self, actions: np.ndarray, *, normalize: bool, clip: bool) -> np.ndarray:
        """Network outputs (..., *action_shape) as joint actions: see `fit_to_bounds`; choices stay as they are."""
        if self.is_discrete:
            return actions
        return fit_to_bounds(actions, self.low, self.high, normalize=normalize, clip=clip)

    # -- splitting -------------------------------------------------------------------------------------------

    @cached_property
    def _decoders(self) -> dict[AgentID, Any]:
        several = len(self.action_shape) > 1
        return {action.agent: action.decoder(row, several=several) for row, action in enumerate(self._actions)}

    def split(self, action: Any, agents: Iterable[AgentID] | None = None) -> dict[AgentID, Any]:
        """Each agent's action in its own space: a scalar of the space's dtype, or an array of its shape and dtype.

        Args:
            action: The joint action, of shape `action_shape`.
            agents: The agents that act; all if None.

        Raises:
            LayoutError: The wrong shape or type, or an action out of its agent's range.
        """
        action = np.asarray(action)
        self.check_actions(action[None], 1)
        return self.decode(self.rows(action), self.agents if agents is None else agents)

    def check_actions(self, actions: np.ndarray, num_envs: int) -> None:
        """Raises LayoutError unless these are joint actions of so many teams, (num_envs, *action_shape)."""
        if actions.shape[:1] != (num_envs,):
            raise LayoutError(f"{num_envs} teams need as many joint actions, not an array of shape {actions.shape}.")
        if actions.shape[1:] != self.action_shape:
            raise LayoutError(f"a joint action has shape {self.action_shape}, not {actions.shape[1:]}.")
        if self.is_discrete and actions.dtype.kind not in "iu":
            raise LayoutError(f"a joint action of discrete choices holds integers, not {actions.dtype}.")

    def rows(self, actions: np.ndarray) -> Any:
        """One or several joint actions as `decode` takes them: Python integers are decoded faster than NumPy's."""
        return actions.tolist() if self.is_discrete else actions

    def decode(self, rows: Any, agents: Iterable[AgentID]) -> dict[AgentID, Any]:
        """As `split`, for one team's part of what `rows` returned. Only the range of actions is checked."""
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
    """Real numbers as actions within bounds, each dimension by itself.

    Args:
        actions: Network outputs, (..., n, dim).
        low, high: The bounds, (n, dim); infinite where there is none.
        normalize: Whether -1 to 1 stands for the range from `low` to `high`, in dimensions that have both; it implies
            clipping.
        clip: Whether actions are clipped.
    """
    if normalize:
        bounded = np.isfinite(low) & np.isfinite(high)
        if bounded.all():
            actions = low + (actions + 1.0) * (high - low) / 2.0
        elif bounded.any():
            floor, ceiling = np.where(bounded, low, -1.0), np.where(bounded, high, 1.0)
            actions = np.where(bounded, floor + (actions + 1.0) * (ceiling - floor) / 2.0, actions)
    return np.clip(actions, low, high) if normalize or clip else actions
