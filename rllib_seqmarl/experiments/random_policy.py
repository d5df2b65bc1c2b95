"""A baseline policy that acts at random."""

from collections.abc import Mapping

import numpy as np

from rllib_seqmarl.envs.layout import ACTION_MASK, ALIVE, TeamLayout


class RandomPolicy:
    """Draws every agent's action uniformly from its legal actions; has the interface of `JointPolicy`."""

    def __init__(self, layout: TeamLayout, seed: int = 0) -> None:
        self.layout = layout
        self._rng = np.random.default_rng(seed)

    def reset(self) -> None:
        """Do nothing: the policy has no memory."""

    def act_for_many(self, observations: Mapping[str, np.ndarray], *, explore: bool = True) -> np.ndarray:
        """Return random joint actions, with the signature of `JointPolicy.act_for_many`; ignores `explore`."""
        return self.layout.sample(self._rng, len(observations[ALIVE]), observations.get(ACTION_MASK))
