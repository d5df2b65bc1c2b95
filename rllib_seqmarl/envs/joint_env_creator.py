"""The environment creator that an algorithm's config hands to RLlib."""

from __future__ import annotations

from typing import Any

import gymnasium as gym

from rllib_seqmarl.envs.catalog import find_creator, make_joint_env


class JointEnvCreator:
    """Makes joint environments out of whatever the user named, on any worker.

    RLlib calls it once per sub-environment with the env config. It travels to remote workers, and there resolves names
    that were registered with Ray as well as those of this package.
    """

    def __init__(self, env: Any, **joint_options: Any) -> None:
        """Initialises the creator.

        Args:
            env: A registered name, an environment class or a creator function.
            **joint_options: Keyword arguments of `JointEnv`.
        """
        self.env = env
        self.joint_options = joint_options

    def __call__(self, env_config: dict[str, Any] | None = None) -> gym.Env:
        return make_joint_env(self.env, env_config, **self.joint_options)

    def check(self) -> None:
        """Raises, before anything is made, if the environment is not known or its packages are missing."""
        find_creator(self.env)

    def __repr__(self) -> str:
        return self.env if isinstance(self.env, str) else getattr(self.env, "__name__", repr(self.env))
