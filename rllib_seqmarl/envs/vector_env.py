"""Many joint environments stepped as one, with all observations written straight into one batch."""

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from rllib_seqmarl.envs.joint_env import JointEnv
from rllib_seqmarl.envs.layout import Arrays


class JointVectorEnv(gym.vector.VectorEnv):
    """gymnasium's SyncVectorEnv for joint environments: the same results without a copy of every observation.

    An environment whose episode is over is reset by the step after the last one (AutoresetMode.NEXT_STEP).
    Returned arrays are new at every step and may be kept.

    Args:
        envs: at least one; all of one layout.
    """

    def __init__(self, envs: Sequence[JointEnv]):
        self.envs = tuple(envs)
        self.num_envs = len(self.envs)
        first = self.envs[0]
        self.name = first.name
        self.layout = first.layout
        if any(env.layout != first.layout for env in self.envs):
            raise ValueError("all environments of a batch need the same agents and spaces.")
        self.single_observation_space = first.observation_space
        self.single_action_space = first.action_space
        self.observation_space = batch_space(first.observation_space, self.num_envs)
        self.action_space = batch_space(first.action_space, self.num_envs)
        self.metadata = {**first.metadata, "autoreset_mode": AutoresetMode.NEXT_STEP}
        self.render_mode = first.render_mode
        self._done = np.zeros(self.num_envs, dtype=np.bool_)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Arrays, dict[str, Any]]:
        """Resets all environments; one seed is counted up from environment to environment."""
        if seed is None or isinstance(seed, int):
            seeds: Sequence[int | None] = [None if seed is None else seed + i for i in range(self.num_envs)]
        else:
            seeds = seed
        arrays = self.layout.blank(self.num_envs)
        infos: dict[str, Any] = {}
        for i, (env, env_seed) in enumerate(zip(self.envs, seeds, strict=True)):
            info = env.reset_into(_row(arrays, i), seed=env_seed, options=options)
            infos = self._add_info(infos, info, i)
        self._done[:] = False
        return arrays, infos

    def step(self, actions: np.ndarray) -> tuple[Arrays, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Steps all environments; `actions` is (num_envs, n, ...)."""
        arrays = self.layout.blank(self.num_envs)
        return arrays, *self.step_into(actions, arrays)

    def step_into(
        self, actions: np.ndarray, arrays: Arrays
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """As `step`, with the observations written into blank arrays of the caller's; returns all the rest."""
        rewards = np.zeros(self.num_envs)
        terminated = np.zeros(self.num_envs, dtype=np.bool_)
        truncated = np.zeros(self.num_envs, dtype=np.bool_)
        agent_rewards = np.zeros((self.num_envs, self.layout.n_agents), np.float32)
        is_step = ~self._done
        infos: dict[str, Any] = {"agent_rewards": agent_rewards, "_agent_rewards": is_step}
        infos |= {"team_reward": rewards, "_team_reward": is_step}
        for i, env in enumerate(self.envs):
            if self._done[i]:
                info = env.reset_into(_row(arrays, i))
            else:
                rewards[i], terminated[i], truncated[i], info = env.step_into(actions[i], _row(arrays, i))
                agent_rewards[i] = info.pop("agent_rewards")
                del info["team_reward"]
            if info:
                infos = self._add_info(infos, info, i)
        self._done = terminated | truncated
        return rewards, terminated, truncated, infos

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """The attribute `name` of every environment, called where it is a method."""
        found = (getattr(env, name) for env in self.envs)
        return tuple(value(*args, **kwargs) if callable(value) else value for value in found)

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """The attribute `name` of every environment."""
        return tuple(getattr(env, name) for env in self.envs)

    def render(self) -> tuple[Any, ...]:
        """What each environment renders."""
        return self.call("render")

    def close_extras(self, **kwargs: Any) -> None:
        """Closes all environments."""
        self.call("close")


def _row(arrays: Arrays, i: int) -> Arrays:
    """One environment's place in a batch."""
    return {name: array[i] for name, array in arrays.items()}
