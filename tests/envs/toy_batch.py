"""Small batched simulators for tests."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from gymnasium import spaces

from rllib_seqmarl.envs.batched_simulator import BatchedSimulator, BatchObservation, StepResult


class ToyBatch(BatchedSimulator):
    """Three agents of two kinds that observe noise; the second one dies during the episode.

    Episodes have 3 to 6 steps, drawn from each copy's random stream, and are truncated if the number is even. An
    agent's reward is its action plus its index, and the team has won if the last action of agent c is positive.

    Args:
        num_envs: Number of copies.
        continuous: Whether actions have 1, 2 and 2 continuous dimensions, rather than 2, 3 and 3 choices.
        spoil: Step -> what is wrong with it: "observation", "reward" or "mask".
    """

    agents = ("a", "b", "c")

    def __init__(self, num_envs: int, *, continuous: bool = False, spoil: dict[int, str] | None = None):
        self.num_envs = num_envs
        self.continuous = continuous
        self.spoil = spoil or {}
        self.has_action_mask = not continuous
        self.state_dim = 2
        self.observation_spaces = tuple(spaces.Box(-np.inf, np.inf, (size,), np.float32) for size in (3, 2, 2))
        self.action_spaces = tuple(
            spaces.Box(-1.0, 1.0, (n - 1,), np.float32) if continuous else spaces.Discrete(n) for n in (2, 3, 3)
        )
        self.rngs = [np.random.default_rng() for _ in range(num_envs)]
        self.count = np.zeros(num_envs, int)
        self.length = np.zeros(num_envs, int)
        self.steps = 0

    def reset(self, seeds: Sequence[int] | None = None) -> BatchObservation:
        if seeds is not None:
            self.rngs = [np.random.default_rng(seed) for seed in seeds]
        self._begin(np.ones(self.num_envs, bool))
        return self._see()

    def _begin(self, reset_mask: np.ndarray) -> None:
        self.count[reset_mask] = 0
        for copy in np.flatnonzero(reset_mask):
            self.length[copy] = self.rngs[copy].integers(3, 7)

    def step(self, actions: np.ndarray, reset_mask: np.ndarray) -> StepResult:
        self.steps += 1
        self.count += 1
        self._begin(reset_mask)
        taken = actions[:, :, 0] if self.continuous else actions
        rewards = (taken + np.arange(3.0)).astype(np.float32)
        rewards[reset_mask] = 0.0
        over = self.count == self.length
        if self.spoil.get(self.steps) == "reward":
            rewards[-1, 2] = np.nan
        return StepResult(
            self._see(), rewards, over & (self.length % 2 == 1), over & (self.length % 2 == 0), taken[:, 2] > 0
        )

    def _see(self) -> BatchObservation:
        observations = np.zeros((self.num_envs, 3, 3), np.float32)
        for copy, rng in enumerate(self.rngs):
            observations[copy] = rng.normal(size=(3, 3))
        observations[:, 1:, 2] = 0.0
        alive = np.ones((self.num_envs, 3), bool)
        alive[:, 1] = self.count < 2
        mask = np.ones((self.num_envs, 3, 3), bool)
        mask[np.arange(self.num_envs), 2, self.count % 3] = False
        mask[:, 0, 2] = False
        if self.spoil.get(self.steps) == "observation":
            observations[-1, 2, 1] = np.inf
        if self.spoil.get(self.steps) == "mask":
            mask[-1, 0] = False
        state = np.stack([self.count, self.length], axis=1).astype(np.float32)
        return BatchObservation(observations, alive, None if self.continuous else mask, state)


class Walkers(BatchedSimulator):
    """Two agents walk on a line until the time is up.

    Args:
        num_envs: Number of copies.
        length: Steps per episode.
        spread: Range of initial places; 0 for identical starts.
        noise: Standard deviation of the noise added to steps.
        resets_itself: Whether a copy resets itself at the end of an episode and returns the next initial observation.
    """

    agents = ("a", "b")

    def __init__(
        self,
        num_envs: int,
        *,
        length: int = 5,
        spread: float = 1.0,
        noise: float = 0.0,
        resets_itself: bool = False,
        render_mode: str | None = None,
    ):
        self.num_envs = num_envs
        self.length, self.spread, self.noise, self.resets_itself = length, spread, noise, resets_itself
        self.render_mode = render_mode
        self.metadata = {"render_modes": ["rgb_array"]}
        self.observation_spaces = (spaces.Box(-np.inf, np.inf, (1,), np.float32),) * 2
        self.action_spaces = (spaces.Discrete(3),) * 2
        self.rngs = [np.random.default_rng() for _ in range(num_envs)]
        self.places = np.zeros((num_envs, 2))
        self.count = np.zeros(num_envs, int)

    def reset(self, seeds: Sequence[int] | None = None) -> BatchObservation:
        if seeds is not None:
            self.rngs = [np.random.default_rng(seed) for seed in seeds]
        self.begin(np.ones(self.num_envs, bool))
        return self.see()

    def begin(self, reset_mask: np.ndarray) -> None:
        self.count[reset_mask] = 0
        for copy in np.flatnonzero(reset_mask):
            self.places[copy] = self.spread * self.rngs[copy].random(2)

    def step(self, actions: np.ndarray, reset_mask: np.ndarray) -> StepResult:
        self.move(actions)
        self.begin(reset_mask)
        rewards = np.where(reset_mask[:, None], 0.0, self.reward())
        terminated, truncated = self.ends()
        if self.resets_itself:
            self.begin(terminated | truncated)
        return StepResult(self.see(), rewards, terminated, truncated)

    def move(self, actions: np.ndarray) -> None:
        self.count += 1
        self.places += actions - 1
        for copy, rng in enumerate(self.rngs):
            self.places[copy] += self.noise * rng.normal(size=2)

    def reward(self) -> np.ndarray:
        return self.places.copy()

    def ends(self) -> tuple[np.ndarray, np.ndarray]:
        """Terminated, truncated."""
        return np.zeros(self.num_envs, bool), self.count == self.length

    def see(self) -> BatchObservation:
        return BatchObservation(self.places[:, :, None].astype(np.float32), np.ones((self.num_envs, 2), bool))

    def render(self) -> np.ndarray:
        return np.zeros((8, 8, 3), np.uint8)
