"""A single team of a batched simulator as a ParallelEnv, implemented as a batch of one."""

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

import numpy as np

from rllib_seqmarl.envs.agent_spaces import ALIVE_KEY, MASK_KEY, AgentAction, AgentID
from rllib_seqmarl.envs.batch_creators import with_num_envs
from rllib_seqmarl.envs.batched_simulator import BatchedSimulator, BatchObservation
from rllib_seqmarl.envs.parallel_env import BaseParallelEnv


class SingleTeam(BaseParallelEnv):
    """A batch with one copy as a ParallelEnv.

    A dead agent stays in `agents` until the end, with observations of zeros and `alive: False` in its info.

    Args:
        batch: The simulator, with `num_envs` of 1.
    """

    def __init__(self, batch: BatchedSimulator):
        assert batch.num_envs == 1
        super().__init__(batch.agents, batch.observation_spaces, batch.action_spaces, batch.render_mode)
        self.batch = batch
        self.metadata = batch.metadata
        self._sizes = [space.shape[0] for space in batch.observation_spaces if space.shape]
        self._actions = list(map(AgentAction.of, batch.agents, batch.action_spaces))
        self._state: np.ndarray | None = None

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict, dict]:
        self.agents = self.possible_agents[:]
        observation = self.batch.reset(None if seed is None else [seed])
        return self._split(observation, {})

    def step(self, actions: Mapping[AgentID, Any]) -> tuple[dict, dict, dict, dict, dict]:
        joint = self._join(actions)
        observation, rewards, terminated, truncated, wins = self.batch.step(joint, np.zeros(1, np.bool_))
        over = bool(terminated[0] or truncated[0])
        observations, infos = self._split(observation, {"win": float(wins[0])} if over and wins is not None else {})
        own_rewards = dict(zip(self.agents, rewards[0].tolist(), strict=True))
        return self.end_step(observations, own_rewards, bool(terminated[0]), bool(truncated[0]), infos)

    def state(self) -> np.ndarray:
        """The global state, float32 (state_dim,).

        Raises:
            NotImplementedError: The task has no global state.
        """
        if not self.batch.state_dim:
            raise NotImplementedError("this task has no global state")
        return self._state if self._state is not None else np.zeros(self.batch.state_dim, np.float32)

    def render(self) -> np.ndarray:
        return self.batch.render()

    def close(self) -> None:
        self.batch.close()

    def _join(self, actions: Mapping[AgentID, Any]) -> np.ndarray:
        """Build the joint action, int64 (1, n) or float32 (1, n, dim)."""
        if self._actions[0].is_discrete:
            return np.array([[actions[agent] for agent in self.agents]], np.int64)
        joint = np.zeros((1, len(self.agents), max(action.dim for action in self._actions)), np.float32)
        for row, agent in enumerate(self.agents):
            joint[0, row, : self._actions[row].dim] = actions[agent]
        return joint

    def _split(self, observation: BatchObservation, info: dict[str, Any]) -> tuple[dict, dict]:
        """Split into observations and infos by agent; `info` is added to each info."""
        if observation.state is not None:
            self._state = observation.state[0]
        observations, infos = {}, {}
        for row, agent in enumerate(self.possible_agents):
            alive = bool(observation.alive[0, row])
            infos[agent] = {**info, ALIVE_KEY: alive}
            own = observation.observations[0, row, : self._sizes[row]]
            observations[agent] = own if alive else np.zeros_like(own)
            if observation.action_mask is not None:
                infos[agent][MASK_KEY] = observation.action_mask[0, row, : self._actions[row].width].astype(np.int8)
        return observations, infos


def single(make_batch: Callable[..., BatchedSimulator]) -> Callable[..., SingleTeam]:
    """Return a creator of single environments (batches of one), with all parameters of `make_batch` but `num_envs`."""
    make_one = with_num_envs(make_batch, 1)

    @wraps(make_one)
    def make(*arguments: Any, **options: Any) -> SingleTeam:
        return SingleTeam(make_one(*arguments, **options))

    return make
