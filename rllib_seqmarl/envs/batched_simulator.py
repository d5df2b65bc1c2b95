"""The interface of simulators that step many teams at once."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from rllib_seqmarl.envs.agent_spaces import AgentID, Space


class BatchObservation(NamedTuple):
    """Observations of B teams of n agents.

    Attributes:
        observations: float32 (B, n, size), each row padded with zeros to the widest agent's size.
        alive: bool (B, n). What a dead agent observes and may do is not looked at.
        action_mask: bool (B, n, choices), padded to the widest agent's choices; None where all is always legal.
        state: float32 (B, state_dim), the global state; None where there is none.
    """

    observations: np.ndarray
    alive: np.ndarray
    action_mask: np.ndarray | None = None
    state: np.ndarray | None = None


class StepResult(NamedTuple):
    """The result of a step of B teams.

    Attributes:
        observation: What they see now; after the last step of an episode its final observation.
        rewards: float32 (B, n), each agent's own, also a dead one's: its part in what the team still wins.
        terminated: bool (B,), whether the episode came to an end of its own.
        truncated: bool (B,), whether it was cut off by the time limit.
        wins: float32 (B,), 1 where the team has won; read at the end of an episode. None where nothing can be won.
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
        observation_spaces: Each agent's own; one-dimensional Box.
        action_spaces: Each agent's own; all Discrete (choices counted from 0) or all one-dimensional Box.
        has_action_mask: Whether `BatchObservation.action_mask` is given.
        state_dim: Size of the global state; 0 without one.
        metadata, render_mode: As a gymnasium environment's.
        check_at_start: Whether a few episodes are played before training, to see that final observations are shown.
            False where a reset takes too long for that.
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
        """Starts an episode in every copy.

        Args:
            seeds: One per copy, for all randomness from here on; None to go on with the random streams there are
                (at first: unpredictable ones).
        """

    @abstractmethod
    def step(self, actions: np.ndarray, reset_mask: np.ndarray) -> StepResult:
        """Moves every copy.

        Args:
            actions: int64 (B, n) or float32 (B, n, dim), padded as `BatchObservation` is. A dead agent's means nothing.
            begins: bool (B,). These copies do not move: they start a new episode, with reward 0 and no end.
        """

    def render(self) -> np.ndarray:
        """A picture of the first copy, uint8 (height, width, 3)."""
        raise NotImplementedError

    def close(self) -> None:  # noqa: B027, most have nothing to free
        """Frees what is held open."""
