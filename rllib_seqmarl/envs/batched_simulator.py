"""The interface of simulators that step many teams at once."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from rllib_seqmarl.envs.agent_spaces import AgentID, Space


class BatchObservation(NamedTuple):
    """Observations of B teams of n agents.

    Attributes:
        observations: float32 (B, n, size), each row zero-padded to the widest agent's size.
        alive: bool (B, n). Observations and masks of dead agents are ignored.
        action_mask: bool (B, n, choices), padded to the widest agent's choices; None if everything is always legal.
        state: float32 (B, state_dim), the global state; None if there is none.
    """

    observations: np.ndarray
    alive: np.ndarray
    action_mask: np.ndarray | None = None
    state: np.ndarray | None = None


class StepResult(NamedTuple):
    """The result of a step of B teams.

    Attributes:
        observation: The next observation; after the last step of an episode, its final observation.
        rewards: float32 (B, n), per agent; a dead agent's is its share of later team rewards.
        terminated: bool (B,), whether the episode reached a terminal state.
        truncated: bool (B,), whether the time limit cut the episode off.
        wins: float32 (B,), 1 where the team has won; read at the end of an episode. None if the task has no wins.
    """

    observation: BatchObservation
    rewards: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    wins: np.ndarray | None = None


class BatchedSimulator(ABC):
    """B independent copies of one task, stepped together.

    Attributes:
        num_envs: B.
        agents: Names, in the order of the rows.
        observation_spaces: One per agent; one-dimensional Box.
        action_spaces: One per agent; all Discrete (starting at 0) or all one-dimensional Box.
        has_action_mask: Whether `BatchObservation.action_mask` is set.
        state_dim: Size of the global state; 0 if there is none.
        metadata, render_mode: As in a gymnasium environment.
        check_at_start: Whether to play a few episodes before training to check final observations. Set it to False if
            resets take too long for that.
    """

    num_envs: int
    agents: tuple[AgentID, ...]
    observation_spaces: tuple[Space, ...]
    action_spaces: tuple[Space, ...]
    has_action_mask: bool = False
    state_dim: int = 0
    metadata: dict[str, Any] = {"render_modes": []}
    render_mode: str | None = None
    check_at_start: bool = True

    @abstractmethod
    def reset(self, seeds: Sequence[int] | None = None) -> BatchObservation:
        """Start an episode in every copy.

        Args:
            seeds: One per copy, for all randomness from here on; None to continue the current random streams, which
                are unpredictable at first.
        """

    @abstractmethod
    def step(self, actions: np.ndarray, reset_mask: np.ndarray) -> StepResult:
        """Step every copy.

        Args:
            actions: int64 (B, n) or float32 (B, n, dim), padded to the widest agent. Those of dead agents are ignored.
            reset_mask: bool (B,). These copies start a new episode instead of stepping, with reward 0 and no end.
        """

    def render(self) -> np.ndarray:
        """Render the first copy, uint8 (height, width, 3)."""
        raise NotImplementedError

    def close(self) -> None:  # noqa: B027, most have nothing to release
        """Release resources."""
