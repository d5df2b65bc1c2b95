"""Vector environments of joint environments, with observations written directly into one batch."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from rllib_seqmarl.envs.env_teams import EnvTeams
from rllib_seqmarl.envs.errors import JointEnvError
from rllib_seqmarl.envs.joint_env import JointEnv
from rllib_seqmarl.envs.joint_teams import JointStep, JointTeams
from rllib_seqmarl.envs.layout import Arrays


def copy_seeds(seed: int, num_envs: int) -> list[int]:
    """Derive a 31-bit seed for each copy of an environment, unrelated even for consecutive values of `seed` >= 0."""
    return (np.random.SeedSequence(seed).generate_state(num_envs) >> 1).tolist()


class JointVector(gym.vector.VectorEnv):
    """Joint teams as a gymnasium VectorEnv, with batched observations and one joint action per team.

    A team whose episode is over starts the next one in the following step (AutoresetMode.NEXT_STEP), so final
    observations are returned. Returned arrays are new at every step and may be kept.

    Args:
        teams: The teams to step.
        metadata, render_mode: As in the environment.
    """

    def __init__(self, teams: JointTeams, metadata: dict[str, Any], render_mode: str | None):
        self.teams = teams
        self.name = teams.name
        self.layout = layout = teams.layout
        self.num_envs = teams.num_envs
        self.single_observation_space = layout.observation_space
        self.single_action_space = layout.action_space
        self.observation_space = batch_space(layout.observation_space, self.num_envs)
        self.action_space = batch_space(layout.action_space, self.num_envs)
        self.metadata = {**metadata, "autoreset_mode": AutoresetMode.NEXT_STEP}
        self.render_mode = render_mode

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Arrays, dict[str, Any]]:
        """Reset all teams, with one seed per team or with seeds that `copy_seeds` derives from a single one."""
        seeds: Sequence[int | None]
        if seed is None:
            seeds = [None] * self.num_envs
        else:
            seeds = copy_seeds(int(seed), self.num_envs) if isinstance(seed, int | np.integer) else list(seed)
        arrays = self.layout.blank(self.num_envs)
        return arrays, self.teams.reset_into(arrays, seeds, options)

    def step(self, actions: np.ndarray) -> tuple[Arrays, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Step all teams with `actions`, (num_envs, n, ...)."""
        arrays = self.layout.blank(self.num_envs)
        return arrays, *self.teams.step_into(actions, arrays)

    def step_into(self, actions: np.ndarray, arrays: Arrays) -> JointStep:
        """Step like `step`, but write the observations into the caller's blank arrays; return the rest."""
        return self.teams.step_into(actions, arrays)

    @abstractmethod
    def get_attr(self, name: str) -> tuple[Any, ...]:
        """The attribute `name` of every environment."""

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """The attribute `name` of every environment, called if it is a method."""
        return tuple(value(*args, **kwargs) if callable(value) else value for value in self.get_attr(name))


def check_copies(envs: Sequence[Any]) -> None:
    """Check that joint environments can be stepped side by side as copies of one.

    Args:
        envs: At least one JointEnv.

    Raises:
        JointEnvError: Two are the same object, or they differ in their layout or team reward.
    """
    first = envs[0]
    if len({id(env.env) for env in envs}) < len(envs):
        raise JointEnvError(
            f"{first.name}: its creator returned the same environment twice. Make a new one at each call, since copies "
            "are stepped side by side."
        )
    if any(env.layout != first.layout or env.team_reward != first.team_reward for env in envs):
        raise JointEnvError(f"{first.name}: all environments of a batch need the same agents, spaces and options.")


class JointVectorEnv(JointVector):
    """Equivalent to gymnasium's SyncVectorEnv for joint environments, but without copying observations.

    Args:
        envs: At least one environment, all with the same layout.
    """

    def __init__(self, envs: Sequence[JointEnv]):
        self.envs = tuple(envs)
        first = self.envs[0]
        check_copies(self.envs)
        teams = EnvTeams(first.name, [env.reader for env in self.envs], team_reward=first.team_reward)
        super().__init__(teams, first.metadata, first.render_mode)

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """The attribute `name` of every joint environment or of the user's."""
        return tuple(env.get_wrapper_attr(name) for env in self.envs)

    def set_attr(self, name: str, values: Any) -> None:
        """Set an attribute of the users' environments to the values in a list or tuple, or to a single value."""
        values = values if isinstance(values, list | tuple) else [values] * self.num_envs
        if len(values) != self.num_envs:
            raise ValueError(
                f"set_attr({name!r}) needs {self.num_envs} values, one per environment, not {len(values)}."
            )
        for env, value in zip(self.envs, values, strict=True):
            env.set_wrapper_attr(name, value)

    def render(self) -> tuple[Any, ...]:
        """Render each environment."""
        return self.call("render")

    def close_extras(self, **kwargs: Any) -> None:
        """Close all environments."""
        self.call("close")
