"""A baseline policy that acts at random."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from rllib_seqmarl.envs.layout import ACTION_MASK, TeamLayout


class RandomPolicy:
    """Draws every agent's action uniformly from its legal actions; has the interface of `JointPolicy`."""

    def __init__(self, layout: TeamLayout, seed: int = 0) -> None:
        self.layout = layout
        self._rng = np.random.default_rng(seed)

    def reset(self) -> None:
        """Do nothing: the policy has no memory."""

    def act_for_many(self, observations: Mapping[str, np.ndarray], *, explore: bool = True) -> np.ndarray:
        """Return random joint actions (teams, n, ...); ignores `explore`."""
        layout = self.layout
        teams = len(observations["alive"])
        if not layout.is_discrete:
            low, high = np.clip(layout.low, -1e3, 1e3), np.clip(layout.high, -1e3, 1e3)  # a bound may be infinite
            return self._rng.uniform(low, high, (teams, *layout.action_shape)).astype(np.float32)
        shape = (teams, layout.n_agents, layout.width)
        legal = np.broadcast_to(observations.get(ACTION_MASK, layout.own_actions), shape) != 0
        ranks = np.where(legal, self._rng.random(shape), -1.0)
        components = np.split(ranks, np.cumsum(layout.nvec)[:-1], axis=2)
        chosen = [component.argmax(axis=2) for component in components]
        return np.stack(chosen, axis=2).reshape(teams, *layout.action_shape)
